// SPDX-License-Identifier: Apache-2.0
// Gradients of weights, added by the matmul that computes them. Autograd would take a new tensor
// from each layer and add it to .grad: two more passes over memory of the weights' size, and that
// memory.
//
// Layers whose forward pass ran with ComputeContext::fused_grad_accumulation do so. The numbers are
// those of autograd, up to the order of additions. Only for weights that autograd would treat
// alike: leaves whose .grad is there, dense and of their dtype or fp32, without hooks; never under
// create_graph, nor in autograd::grad() or backward(inputs). A weight must not be differentiated by
// two threads at once.
#pragma once

#include <torch/types.h>

#include "halftone/kernels/linear/compute_context.h"

namespace halftone {

/// Inside a backward() of what ran under `context`: whether the gradients of those `weights` that
/// require one may go to .grad behind autograd's back.
bool accumulates_in_place(const ComputeContext& context, at::TensorList weights);

/// Inside a backward() of what ran under `context`: where to add the gradient of `weights` (out_i,
/// in), taken as one matrix below each other: a view of their .grad, (sum of out_i, in), whose
/// versions count it as written. Undefined where the gradient has to go through autograd.
torch::Tensor weight_grad_in_place(const ComputeContext& context, at::TensorList weights);

/// The dtype in which autograd adds up the gradient of `weight`. Where it is wider than the
/// weight's, what goes there need not be rounded first.
torch::ScalarType weight_grad_dtype(const torch::Tensor& weight);

}  // namespace halftone
