// SPDX-License-Identifier: Apache-2.0
// LibTorch's dtypes as the vectorised loops know them.
#pragma once

#include <torch/types.h>

#include "halftone/kernels/common/simd_impl.h"

namespace halftone {

/// fp32, bf16 or fp16: what the loops are compiled for.
inline bool has_kernel_type(torch::ScalarType dtype) {
  return dtype == torch::kFloat || dtype == torch::kBFloat16 || dtype == torch::kHalf;
}

/// REQUIRES has_kernel_type(dtype).
inline KernelType kernel_type(torch::ScalarType dtype) {
  if (dtype == torch::kFloat) return KernelType::kFloat;
  return dtype == torch::kHalf ? KernelType::kHalf : KernelType::kBFloat16;
}

/// Whether the vectorised loops may work on `x`, wherever a kernel gets it: not on fp64.
inline bool is_simd_operand(const torch::Tensor& x) {
  return has_kernel_type(x.scalar_type()) && has_simd_kernels();
}

}  // namespace halftone
