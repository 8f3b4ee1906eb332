// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/fused_grad_accumulation.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <vector>

#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/grad_ready_hook_impl.h"
#include "halftone/kernels/common/merged_weights_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

bool has_hooks(const Tensor& weight) {
  if (!torch::autograd::impl::hooks(weight).empty() ||
      torch::autograd::impl::post_acc_grad_hooks(weight) != nullptr)
    return true;
  const auto accumulator = torch::autograd::impl::try_get_grad_accumulator(weight);
  return accumulator && has_hooks_that_look(*accumulator);
}

bool takes_in_place(const Tensor& weight) {
  if (!weight.is_leaf() || !weight.requires_grad()) return false;
  const Tensor& grad = weight.grad();
  return grad.defined() && grad.is_contiguous() && !grad.requires_grad() &&
         (grad.scalar_type() == weight.scalar_type() || grad.scalar_type() == torch::kFloat) &&
         grad.sizes() == weight.sizes() && grad.device() == weight.device() && !has_hooks(weight);
}

/// Whether this is a backward() that reaches every leaf.
bool accumulates_everywhere() {
  const auto* chosen = torch::autograd::get_current_graph_task_exec_info();
  return chosen != nullptr && chosen->empty();
}

bool is_in_place_backward(const ComputeContext& context) {
  return context.fused_grad_accumulation && !torch::GradMode::is_enabled() &&
         is_fused(FusedKernel::kWeightGrad) && accumulates_everywhere();
}

}  // namespace

bool accumulates_in_place(const ComputeContext& context, at::TensorList weights) {
  return is_in_place_backward(context) &&
         std::all_of(weights.begin(), weights.end(),
                     [](const Tensor& w) { return !w.requires_grad() || takes_in_place(w); });
}

Tensor weight_grad_in_place(const ComputeContext& context, at::TensorList weights) {
  if (!is_in_place_backward(context)) return {};
  std::vector<Tensor> grads;
  for (const Tensor& weight : weights) {
    if (!takes_in_place(weight)) return {};
    grads.push_back(weight.grad());
  }
  Tensor merged = merged_view(grads);
  if (merged.defined())  // written through a pointer, and not by tensor operations that would tell
    for (const Tensor& grad : grads) grad.unsafeGetTensorImpl()->bump_version();
  return merged;
}

torch::ScalarType weight_grad_dtype(const Tensor& weight) {
  return weight.grad_dtype().value_or(weight.scalar_type());
}

}  // namespace halftone
