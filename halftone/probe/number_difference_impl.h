// SPDX-License-Identifier: Apache-2.0
// How far a narrow result is from its fp32 one.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// Sums over the numbers of results, which can be added up over calls.
struct NumberDifference {
  std::int64_t numbers = 0;
  std::int64_t flushed = 0;     // zero, and not in fp32
  std::int64_t overflowed = 0;  // inf or nan, and not in fp32
  // Of the numbers that are finite in both:
  double squared_error = 0.0;
  double squared_narrow = 0.0;
  double squared_wide = 0.0;
  double product = 0.0;

  NumberDifference& operator+=(const NumberDifference& other);
  /// |narrow - wide| / |wide|; 0 where both are 0, and inf where only `wide` is.
  double relative_error() const;
  /// 1 where both are 0; 0 where one is.
  double cosine() const;
};

/// `wide` is fp32 and of the same sizes. Waits for the device.
NumberDifference difference(const torch::Tensor& narrow, const torch::Tensor& wide);

}  // namespace halftone
