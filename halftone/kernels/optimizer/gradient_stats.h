// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace halftone {

struct Range {
  std::int64_t begin;
  std::int64_t end;
};

struct RangeStats {
  torch::Tensor norm_squared;  // fp64 (number of ranges): sums of squares, fp64 arithmetic
  torch::Tensor non_finite;    // int64 (number of ranges): elements that are inf or nan
};

/// Elements that are summed up in one go, from the begin of a range on: the sums of such parts,
/// added in order, are those of the range to the bit.
inline constexpr std::int64_t kGradientStatsChunk = 32768;

/// Statistics of parts of `flat` (n), fp32, bf16 or fp16, in one read. The same bits for any number
/// of threads. Nothing waits for the device.
RangeStats gradient_stats(const torch::Tensor& flat, const std::vector<Range>& ranges);

/// The definition, in plain ATen operations.
RangeStats gradient_stats_reference(const torch::Tensor& flat, const std::vector<Range>& ranges);

}  // namespace halftone
