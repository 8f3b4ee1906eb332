// SPDX-License-Identifier: Apache-2.0
// Weights as signed bytes with one scale for each row, as files of quantized models hold them:
// NAME as int8 (rows, columns), NAME_scale as fp32 (rows, 1), and a weight is their product.
#pragma once

#include <torch/types.h>

#include <string>

#include "halftone/core/state_dict.h"

namespace halftone {

/// Behind the name of a matrix, the name of its scales.
inline constexpr const char* kScaleSuffix = "_scale";

struct Int8Weight {
  torch::Tensor integers;  // (rows, columns) int8, -127 .. 127
  torch::Tensor scales;    // (rows, 1) fp32
};

/// `weight` (rows, columns) as the forward pass of int8-mixed rounds it: bit for bit its integers
/// and scales, max|row| / 127. Throws c10::Error for another shape, or a row with inf or nan.
Int8Weight quantize_weight(const torch::Tensor& weight);

/// Each matrix of `file` that is stored so as fp32, without its scales; the others as they are.
/// What is lazy stays lazy. Throws UserError, which begins with `source`, for int8 without scales
/// and for scales of another shape or dtype.
StateDict restore_int8_weights(const StateDict& file, const std::string& source);

}  // namespace halftone
