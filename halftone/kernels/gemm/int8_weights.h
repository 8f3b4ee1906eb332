// SPDX-License-Identifier: Apache-2.0
// Weights that are held in int8 for inference: quantized once, read as they are by each matmul.
#pragma once

#include <torch/types.h>

#include <vector>

namespace halftone {

/// A matrix W (out, in) as symmetric integers with one scale for each row, those of int8-mixed's
/// forward pass.
struct Int8WeightMatrix {
  torch::Tensor integers;  // (out, in) int8; dense rows, kInt8Line bytes or a multiple apart
  torch::Tensor scales;    // (out) fp32; nan for a row that holds inf or nan
};

/// Rows of integers begin at multiples of this many bytes; zeros fill what lies between.
inline constexpr std::int64_t kInt8Line = 64;

/// Bytes of the integers of a matrix (out, in), with the zeros between the rows.
std::int64_t int8_weights_bytes(std::int64_t out, std::int64_t in);

/// `weight` (out, in) in fp32, bf16 or fp16, with at most kMaxInt8Depth columns. `place`: where the
/// integers go, int8_weights_bytes() of uint8; undefined: to memory of their own.
Int8WeightMatrix quantize_weights(const torch::Tensor& weight, torch::Tensor place = {});

/// x W^T for each of `weights`, side by side. Each row of x is quantized to -127 .. 127 by a scale
/// of its own, sums are exact int32, times both scales in fp32, rounded once to `dtype` (fp32, bf16
/// or fp16). So a row's result depends neither on the other rows nor on the number of threads nor
/// on the instruction set. A row with inf or nan is nan throughout. Not differentiable. x (..., in)
/// in fp32, bf16 or fp16; returns (..., sum of out_i).
torch::Tensor int8_weights_linear(const torch::Tensor& x,
                                  const std::vector<Int8WeightMatrix>& weights,
                                  torch::ScalarType dtype);

/// The same of matrices whose parts stand in two lists.
torch::Tensor int8_weights_linear(const torch::Tensor& x, at::TensorList integers,
                                  at::TensorList scales, torch::ScalarType dtype);

}  // namespace halftone
