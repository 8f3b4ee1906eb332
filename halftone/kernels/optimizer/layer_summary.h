// SPDX-License-Identifier: Apache-2.0
// What one parameter's gradient and one update of it amount to, each in one read.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// The magnitudes below which a format is no longer itself.
struct FormatFloor {
  /// Rounding to nearest makes zero of what is not larger: half the smallest subnormal number.
  /// 0: of nothing that fp32 holds.
  double flushed = 0.0;
  double normal = 0.0;  ///< the smallest number that has all of the format's precision
};

/// Of fp32, bf16 or fp16; of fp32 for any other dtype.
FormatFloor format_floor(torch::ScalarType dtype);

/// A gradient as it is: scaled, if the loss was. Counts are numbers of elements.
struct GradientSummary {
  double norm_squared = 0.0;  ///< inf or nan where an element is
  double largest = 0.0;       ///< magnitude, of the finite ones
  std::int64_t zeros = 0;
  /// Zeros in rows (along dimension 0 of two and more) that have another element too. A row of
  /// zeros only belongs to what took no part: a token that did not occur, a unit that was off.
  std::int64_t zeros_in_live_rows = 0;
  std::int64_t flushed = 0;    ///< not zero, and zero in the format
  std::int64_t subnormal = 0;  ///< not zero, and below the format's normal numbers; `flushed` too
  std::int64_t non_finite = 0;
};

/// A GradientSummary as one fp64 tensor (7) on the gradient's device; gradient_summary_of() reads
/// it. The gradient is dense and of a floating dtype; fp64 is summed as it is, and its magnitudes
/// are rounded to fp32. The same bits for any number of threads. Nothing waits for the device.
torch::Tensor gradient_summary(const torch::Tensor& gradient, const FormatFloor& floor);

/// The definition, in plain ATen operations.
torch::Tensor gradient_summary_reference(const torch::Tensor& gradient, const FormatFloor& floor);

/// Waits for the device.
GradientSummary gradient_summary_of(const torch::Tensor& packed);

/// An update of a parameter, from its values before and after it.
struct UpdateSummary {
  double change_squared = 0.0;     ///< sum of (after - before)^2
  double weight_squared = 0.0;     ///< sum of before^2
  std::int64_t with_gradient = 0;  ///< elements whose gradient is not zero
  std::int64_t unchanged = 0;      ///< of those: after is before
};

/// An UpdateSummary as one fp64 tensor (4) on the device of `after`; update_summary_of() reads it.
/// All three have the same shape and device, `before` and `after` the same floating dtype. The same
/// bits for any number of threads. Nothing waits for the device.
torch::Tensor update_summary(const torch::Tensor& before, const torch::Tensor& after,
                             const torch::Tensor& gradient);

/// The definition, in plain ATen operations.
torch::Tensor update_summary_reference(const torch::Tensor& before, const torch::Tensor& after,
                                       const torch::Tensor& gradient);

/// Waits for the device.
UpdateSummary update_summary_of(const torch::Tensor& packed);

}  // namespace halftone
