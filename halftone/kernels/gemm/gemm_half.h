// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>

#include "halftone/kernels/gemm/cpu_gemm_config.h"

namespace halftone {

/// a b for bf16 or fp16 matrices on the CPU, accumulated in fp32 and rounded once, to `out`;
/// kNative rounds to the matrices' own dtype first; for kUpcast they may come upcast to fp32
/// already, and `fp32` multiplies them, or the library of cpu_gemm_config(). kNative runs on any
/// device. Not differentiable. a (M, K), b (K, N), same dtype, any
/// strides; returns (M, N) contiguous.
torch::Tensor gemm_half(const torch::Tensor& a, const torch::Tensor& b, torch::ScalarType out,
                        GemmBackend path, std::optional<GemmLibrary> fp32 = {});

/// A sum takes a matmul that was rounded to 16 bits a block of rows at a time, of so many elements,
/// where it has more than kLargeSum: blocks are still in the cache when they are added.
inline constexpr std::int64_t kSumBlock = std::int64_t{1} << 19U;
inline constexpr std::int64_t kLargeSum = std::int64_t{1} << 20U;

/// sum += factor a b, where a b is rounded to the dtype of `sum` as gemm_half() would before it is
/// added; `sum` (M, N), fp32 or the matrices' dtype.
void gemm_half_add(const torch::Tensor& sum, const torch::Tensor& a, const torch::Tensor& b,
                   GemmBackend path, double factor = 1.0);

}  // namespace halftone
