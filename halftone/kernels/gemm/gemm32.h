// SPDX-License-Identifier: Apache-2.0
// Matmuls of fp32 matrices on the CPU, by the library that cpu_gemm_config() names: LibTorch's own
// at::mm is the BLAS (MKL), whose kernels leave a tenth of some CPUs' speed unused that oneDNN's
// reach. Both compute in fp32; the order of summation differs.
#pragma once

#include <torch/types.h>

#include <cstdint>

#include "halftone/kernels/gemm/cpu_gemm_config.h"

namespace halftone {

/// Whether oneDNN's fp32 matmul can be called: LibTorch exports it, and the CPU (as capped) has
/// what LibTorch asks for, AVX-512.
bool has_onednn_gemm32();

/// Whether a matmul of so many multiply-adds goes to oneDNN, by cpu_gemm_config().
bool goes_to_onednn(std::int64_t multiply_adds);

/// a b by `library`. a (m, k) and b (k, n) are fp32 on the CPU; anything else, small matmuls and
/// layouts that are neither row- nor column-major take the BLAS, as does everything where
/// has_onednn_gemm32() is false. Nothing is recorded for autograd.
torch::Tensor gemm32(const torch::Tensor& a, const torch::Tensor& b,
                     GemmLibrary library = cpu_gemm_config().fp32);
/// The same into `out` (m, n).
void gemm32_out(const torch::Tensor& out, const torch::Tensor& a, const torch::Tensor& b,
                GemmLibrary library = cpu_gemm_config().fp32);
/// sum += factor a b.
void gemm32_add(const torch::Tensor& sum, const torch::Tensor& a, const torch::Tensor& b,
                double factor = 1.0, GemmLibrary library = cpu_gemm_config().fp32);

}  // namespace halftone
