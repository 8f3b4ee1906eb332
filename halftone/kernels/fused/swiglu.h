// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

namespace halftone {

/// silu(gate) * up, silu(z) = z / (1 + e^-z) (Shazeer 2020), computed in fp32 (double for double);
/// each of the two results is rounded to the operands' dtype. Only gate_up is kept for the
/// backward pass.
/// gate_up (..., 2 h), the gates before the ups; returns (..., h). Differentiable as often as its
/// definition, which is what runs where there are no vector instructions for it.
torch::Tensor swiglu(const torch::Tensor& gate_up);

/// The definition, in plain ATen operations.
torch::Tensor swiglu_reference(const torch::Tensor& gate_up);

}  // namespace halftone
