// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include "halftone/kernels/gemm/cpu_gemm_config.h"

namespace halftone {

/// a b for bf16 or fp16 matrices on the CPU, accumulated in fp32 and rounded once, to `out`;
/// kNative rounds to the matrices' own dtype first; for kUpcast they may come upcast to fp32
/// already, and `fp32` multiplies them. Not differentiable. a (M, K), b (K, N), same dtype, any
/// strides; returns (M, N) contiguous.
torch::Tensor gemm_half(const torch::Tensor& a, const torch::Tensor& b, torch::ScalarType out,
                        GemmBackend path, GemmLibrary fp32 = cpu_gemm_config().fp32);

/// into += a b, rounded to the dtype of `into` as gemm_half() would before it is added; `into` (M,
/// N), fp32 or the matrices' dtype.
void gemm_half_add(const torch::Tensor& into, const torch::Tensor& a, const torch::Tensor& b,
                   GemmBackend path);

}  // namespace halftone
