// SPDX-License-Identifier: Apache-2.0
// LibTorch's wrapper of oneDNN's matmul, which at::mm calls for 16-bit operands only.
#pragma once

#include <torch/types.h>

namespace halftone {

/// Whether LibTorch exports it.
bool has_onednn_matmul();

/// out = alpha a b + beta out; matrices of one dtype, row- or column-major, `out` dense and
/// row-major. Throws c10::Error where LibTorch finds the CPU unsuitable.
void onednn_matmul(const torch::Tensor& out, const torch::Tensor& a, const torch::Tensor& b,
                   float beta, float alpha);

}  // namespace halftone
