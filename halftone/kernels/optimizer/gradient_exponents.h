// SPDX-License-Identifier: Apache-2.0
// How the magnitudes of many values are spread over the powers of two: what decides which of them a
// narrow format flushes to zero or overflows.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// Bins of a histogram: 0 counts exact zeros, 255 counts inf and nan, and bin b between them counts
/// 2^(b - 127) <= |x| < 2^(b - 126), the exponent field of fp32; smaller values lie in bin 1.
constexpr std::int64_t kExponentBins = 256;

/// The bin that starts at 2^exponent.
constexpr std::int64_t exponent_bin(int exponent) { return exponent + 127; }

/// Counts the elements of a dense floating tensor of any shape (fp64 is rounded to fp32) into
/// int64 (256) on its device, in one read. Nothing waits for the device.
torch::Tensor exponent_histogram(const torch::Tensor& values);

/// The definition, in plain ATen operations.
torch::Tensor exponent_histogram_reference(const torch::Tensor& values);

}  // namespace halftone
