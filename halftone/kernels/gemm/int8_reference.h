// SPDX-License-Identifier: Apache-2.0
// The definition of an int8 matmul in LibTorch's own operations: what runs where there is no
// kernel of ours, and what the kernels are tested against.
#pragma once

#include <torch/types.h>

#include "halftone/kernels/gemm/int8_gemm.h"

namespace halftone {

struct ReferenceInt8 {
  torch::Tensor integers;  // (rows, depth) int8, -largest .. largest
  torch::Tensor scales;    // (rows) fp32; nan for a row with inf or nan
};

/// `matrix` (rows, depth) fp32 with one scale for each row. Stochastic rounding counts positions in
/// memory order, as the kernels do: down the columns where only those are contiguous.
ReferenceInt8 quantize_reference(const torch::Tensor& matrix, double largest,
                                 const Int8Rounding& rounding);

/// left right^T, (left rows, right rows) fp32, of exact int32 sums by at::_int_mm.
torch::Tensor int8_gemm_reference(const ReferenceInt8& left, const ReferenceInt8& right);

}  // namespace halftone
