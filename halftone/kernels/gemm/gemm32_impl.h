// SPDX-License-Identifier: Apache-2.0
// out = factor a b + beta out, of fp32 matrices. Nothing is checked; neither autograd nor autocast
// may be on.
#pragma once

#include <torch/types.h>

#include "halftone/kernels/gemm/cpu_gemm_config.h"

namespace halftone {

/// By the kernel for the tensors' device: as an operator, or, in libhalftone_cpu_gemm.so, which
/// computes for LibTorch's operators, without one.
void multiply32(const torch::Tensor& out, const torch::Tensor& a, const torch::Tensor& b,
                double beta, double factor, GemmLibrary library);

void multiply32_cpu(const torch::Tensor& out, const torch::Tensor& a, const torch::Tensor& b,
                    double beta, double factor, GemmLibrary library);
void multiply32_by_libtorch(const torch::Tensor& out, const torch::Tensor& a,
                            const torch::Tensor& b, double beta, double factor);

}  // namespace halftone
