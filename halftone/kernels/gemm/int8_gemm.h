// SPDX-License-Identifier: Apache-2.0
// Matmuls of int8 matrices with exact int32 sums: on the CPU u8 x s8 by FBGEMM, elsewhere (and
// without AVX2, as on Arm) as int8_reference.h defines them.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// How values are rounded to integers: to the nearest, or up or down with the probabilities that
/// keep the mean, by bits that are a function of (`stream`, position) alone.
struct Int8Rounding {
  bool stochastic = false;
  std::uint64_t stream = 0;
};

/// A matrix (rows, depth) as integers with one scale for each row; the products sum over
/// depth. A row with inf or nan has the scale nan, and makes nan of what is computed from it.
struct Int8Matrix {
  torch::Tensor quads;   // int32, four integers each: (rows, ceil(depth / 4)), or transposed;
                         // where FBGEMM is not used: int8 (rows, depth)
  torch::Tensor scales;  // (rows) fp32
  torch::Tensor sums;    // (rows) int32, of the integers of a row; for FBGEMM only
  std::int64_t depth = 0;
  bool depth_major = false;  // quads are (ceil(depth / 4), rows)
};

/// Largest integer of a left operand: 127 where products are added in 32 bits (VNNI, any GPU,
/// without FBGEMM), else 64: AVX2 adds pairs of products in 16 bits, which saturate beyond that.
std::int32_t int8_left_limit(torch::Device device = torch::kCPU);

/// `matrix` (rows, depth) in fp32, bf16 or fp16, any strides, as the left operand
/// (unsigned with an offset) or the right one (signed, up to 127). depth is at most kMaxInt8Depth.
Int8Matrix quantize_left(const torch::Tensor& matrix, const Int8Rounding& rounding);
Int8Matrix quantize_right(const torch::Tensor& matrix, const Int8Rounding& rounding);

/// The most terms of an exact int32 sum of products of bytes.
constexpr std::int64_t kMaxInt8Depth = 65536;

/// left right^T, (left rows, right rows): exact integer sums times the scales, in fp32, which is
/// rounded once to a `dtype` of 16 bits. If `into` is defined (dense, same shape, fp32), the matmul
/// is added to it and it is returned.
torch::Tensor int8_gemm(const Int8Matrix& left, const Int8Matrix& right,
                        const torch::Tensor& into = {}, torch::ScalarType dtype = torch::kFloat);

}  // namespace halftone
