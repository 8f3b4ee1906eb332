// SPDX-License-Identifier: Apache-2.0
// The numbers that a format can store, and what becomes of a tensor that is stored in it.
#pragma once

#include <torch/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace halftone {

/// A floating format, or one of integers with a scale per row. All figures of fp8 are those of
/// Micikevicius et al. 2022 (e4m3 without inf).
struct NumberFormat {
  /// What a tensor is multiplied by before it is stored, so that its largest value fits.
  enum class Scaling { kNone, kPerTensor, kPerRow };

  std::string name;       // "fp16"
  int mantissa_bits = 0;  // that are stored
  int min_exponent = 0;   // of the smallest normal number
  double max = 0;         // the largest finite number
  Scaling scaling = Scaling::kNone;

  bool is_integer() const { return scaling == Scaling::kPerRow; }
  /// The smallest positive number; of int8, one step of the largest value of the row.
  double smallest() const;
  /// A value of this size or less is stored as zero (round to nearest, ties to even).
  double flushed_up_to() const { return smallest() / 2; }
  /// A value of this size or more becomes inf: half a step beyond max.
  double overflows_from() const;
  /// The largest relative error of a normal number: 2^-(mantissa_bits + 1).
  double unit_roundoff() const;
};

/// "fp32", "bf16", "fp16", "fp8-e4m3", "fp8-e5m2", "int8".
const std::vector<NumberFormat>& number_formats();
/// Throws UserError, which lists the names, for any other.
const NumberFormat& number_format(std::string_view name);
/// The format whose numbers are those of `dtype`; nothing for fp64, integers and bool.
std::optional<NumberFormat> number_format_of(torch::ScalarType dtype);

/// What is left of `values` (any floating dtype) when they are multiplied by `scale`, stored in the
/// format and divided by `scale` again: fp32, of the same shape. Values beyond the format's range
/// become inf. Formats with a scale of their own ignore `scale`.
torch::Tensor stored_as(const NumberFormat& format, const torch::Tensor& values,
                        double scale = 1.0);

/// What storing does to a tensor. Shares are of the elements that are finite and not zero.
struct StorageLoss {
  double relative_error = 0;    // |stored - x| / |x| in the 2-norm, of what stays finite
  double flushed_share = 0;     // became zero
  double overflowed_share = 0;  // became inf
  double flushed_norm = 0;      // 2-norm of what became zero, over that of all
};
StorageLoss storage_loss(const NumberFormat& format, const torch::Tensor& values,
                         double scale = 1.0);

}  // namespace halftone
