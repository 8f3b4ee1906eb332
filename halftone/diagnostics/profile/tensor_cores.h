// SPDX-License-Identifier: Apache-2.0
// Whether Tensor Cores could multiply matrices of a shape and dtype. That is a property of the
// numbers alone: no GPU is asked, and nothing is said of one's speed.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>

#include "halftone/inspect/matmul_shape.h"

namespace halftone {

/// "2048 x 1408 x 512 bf16", or "16 x (256 x 256 x 64) bf16".
std::string to_string(const MatmulShape& shape);

/// The multiple that m, n and k must be for Tensor Cores: 16 bytes of them. fp16 and bf16 8, int8
/// and fp8 16, double 2, fp32 4 (as TF32). 0 for a dtype that they do not take. From NVIDIA's
/// "Matrix Multiplication Background User's Guide", table 1: since cuBLAS 11.0 other sizes may use
/// Tensor Cores too, less efficiently; int8 and fp8 still refuse them. Of a convolution the
/// channels count, from the "Convolutional Layers User's Guide".
std::int64_t tensor_core_multiple(torch::ScalarType dtype);

/// Empty where dtype and sizes are eligible; else what would make them so: "n 50257 -> 50264", or
/// "fp32: compute in bf16 or fp16" (TF32, which fp32 may be rounded to, is off in halftone).
std::string tensor_core_remedy(const MatmulShape& shape);

}  // namespace halftone
