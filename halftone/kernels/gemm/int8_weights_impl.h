// SPDX-License-Identifier: Apache-2.0
// The interface between int8_weights.cpp and its loops. It is free of LibTorch, so the loops
// compile quickly.
#pragma once

#include <cstdint>

#include "halftone/kernels/common/simd_impl.h"

namespace halftone {

/// Rows of W and of x whose sums are made at once: the first stay in the first cache meanwhile.
inline constexpr std::int64_t kInt8WeightRows = 16;
inline constexpr std::int64_t kInt8InputRows = 8;

/// Some rows of x and of W, as integers. Rows are `stride` bytes apart, a multiple of kInt8Line,
/// and zeros fill them up, so no loop has a rest.
struct Int8Block {
  const std::int8_t* x;
  const std::int32_t* x_sums;  // of each row of x
  const float* x_scales;
  std::int64_t x_rows;  // at most kInt8InputRows
  const std::int8_t* weight;
  const float* weight_scales;
  std::int64_t weight_rows;  // at most kInt8WeightRows
  std::int64_t stride;
};

/// sums[r][j] = x_r . w_j, exactly; kInt8WeightRows apart.
using Int8SumsFunction = void(const Int8Block& block, std::int32_t* sums);

/// By the best instruction set that Highway knows: pairs of products, widened to 16 bits before.
Int8SumsFunction int8_sums;
/// By AVX-512 VNNI: four products in an instruction. REQUIRES has_int8_vnni().
Int8SumsFunction int8_sums_vnni;
/// Whether this build and this CPU have them.
bool has_int8_vnni();

/// out[r * out_stride + j] = sums[r][j] (weight scale of j) (x scale of r), rounded to `type`.
void scale_int8_sums(const Int8Block& block, const std::int32_t* sums, KernelType type, void* out,
                     std::int64_t out_stride);

}  // namespace halftone
