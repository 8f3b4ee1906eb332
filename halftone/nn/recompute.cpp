// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/recompute.h"

#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/custom_class.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "halftone/autocast/autocast.h"
#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/kernels/common/grad_ready_hook_impl.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/fused_grad_accumulation.h"
#include "halftone/kernels/linear/weight_residency.h"

namespace halftone {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// A block and all that its first run read beside tensors.
class CheckpointedRun : public torch::CustomClassHolder {
 public:
  CheckpointedRun(CheckpointedFunction block, torch::Device device)
      : block_(std::move(block)),
        device_(device),
        autocast_(is_autocast_on(device.type())),
        autocast_dtype_(at::autocast::get_autocast_dtype(autocast_device(device.type()))),
        context_(compute_context()),
        generators_(rng_state(device)) {
    context_.streams = context_.streams.again();
  }

  /// Recorded by autograd from `leaves` on, the first time too: where gradients are off, few rows
  /// take another kernel.
  variable_list first(const variable_list& leaves) const {
    const torch::AutoGradMode with_grad(true);
    return block_(leaves);
  }

  variable_list again(const variable_list& leaves) const {
    const Autocast autocast(autocast_device(device_.type()), autocast_dtype_, autocast_);
    ComputeContext context = context_;
    context.streams = context_.streams.again();
    const ComputeScope scope(std::move(context));
    const GeneratorScope generators(device_, generators_);
    return first(leaves);
  }

  const ComputeContext& context() const { return context_; }

 private:
  CheckpointedFunction block_;
  torch::Device device_;
  bool autocast_;
  torch::ScalarType autocast_dtype_;
  ComputeContext context_;  // whose streams stand where the first run began
  StateDict generators_;
};

using BlockRunPtr = c10::intrusive_ptr<CheckpointedRun>;

variable_list as_leaves(at::TensorList inputs) {
  variable_list leaves;
  for (const Tensor& input : inputs)
    leaves.push_back(input.detach().set_requires_grad(input.requires_grad()));
  return leaves;
}

/// Tensors without their hooks, in this scope.
class HooksAside {
 public:
  explicit HooksAside(variable_list tensors)
      : tensors_(std::move(tensors)), hooks_(tensors_.size()) {
    swap();
  }
  ~HooksAside() { swap(); }
  HooksAside(const HooksAside&) = delete;
  HooksAside& operator=(const HooksAside&) = delete;

 private:
  void swap() {
    for (std::size_t i = 0; i < tensors_.size(); ++i)
      torch::autograd::impl::hooks(tensors_[i]).swap(hooks_[i]);
  }

  variable_list tensors_;
  std::vector<std::vector<std::unique_ptr<torch::autograd::FunctionPreHook>>> hooks_;
};

/// Results that have a gradient, and that gradient.
struct Reached {
  variable_list outputs;
  variable_list grads;
};

struct Recomputed : torch::autograd::Function<Recomputed> {
  static variable_list forward(AutogradContext* ctx, at::TensorList inputs,
                               at::TensorList parameters, const BlockRunPtr& run) {
    variable_list results, constant;
    const WeightsHeld held(run->context().weight_residency, parameters.vec());
    for (const Tensor& output : run->first(as_leaves(inputs))) {
      results.push_back(output.detach());
      if (!output.requires_grad()) constant.push_back(results.back());
    }
    ctx->mark_non_differentiable(constant);
    ctx->set_materialize_grads(false);
    variable_list saved = inputs.vec();
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["inputs"] = static_cast<std::int64_t>(inputs.size());
    ctx->saved_data["run"] = c10::IValue::make_capsule(run);
    return results;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_grads) {
    HALFTONE_CHECK(!torch::GradMode::is_enabled(),
                   "[recomputed] expected a first derivative, got create_graph: a block that is "
                   "recomputed can be differentiated once; run it without recomputation");
    const variable_list saved = ctx->get_saved_variables();
    const auto first_parameter = saved.begin() + ctx->saved_data["inputs"].toInt();
    const variable_list leaves = as_leaves(variable_list(saved.begin(), first_parameter));
    const auto holder = ctx->saved_data["run"].toCapsule();
    const auto& run = static_cast<const CheckpointedRun&>(*holder);
    const variable_list parameters(first_parameter, saved.end());
    const WeightsHeld held(run.context().weight_residency, parameters);
    const variable_list outputs = run.again(leaves);
    Reached reached;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (!output_grads[i].defined() || !outputs[i].requires_grad()) continue;
      reached.outputs.push_back(outputs[i]);
      reached.grads.push_back(output_grads[i]);
    }
    variable_list grads(saved.size() + 1);  // the inputs, the parameters, the run
    if (reached.outputs.empty()) return grads;
    if (accumulates_in_place(run.context(), parameters))
      backward_to_leaves(reached, leaves, grads);
    else
      backward_to_wanted(*ctx, reached, leaves, parameters, grads);
    return grads;
  }

 private:
  /// The parameters' gradients go to .grad.
  static void backward_to_leaves(const Reached& reached, const variable_list& leaves,
                                 variable_list& grads) {
    const NestedBackward nested;
    torch::autograd::backward(reached.outputs, reached.grads);
    for (std::size_t i = 0; i < leaves.size(); ++i) grads[i] = leaves[i].grad();
  }

  /// All gradients go on through autograd, as far as somebody wants them.
  static void backward_to_wanted(const AutogradContext& ctx, const Reached& reached,
                                 const variable_list& leaves, const variable_list& parameters,
                                 variable_list& grads) {
    variable_list all = leaves, wanted;
    all.insert(all.end(), parameters.begin(), parameters.end());
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (!all[i].requires_grad() || !ctx.needs_input_grad(i)) continue;
      wanted.push_back(all[i]);
      places.push_back(i);
    }
    if (wanted.empty()) return;
    const HooksAside once(wanted);  // a parameter's have their turn when its gradient has left here
    const variable_list found = torch::autograd::grad(reached.outputs, wanted, reached.grads,
                                                      /*retain_graph=*/{}, /*create_graph=*/false,
                                                      /*allow_unused=*/true);
    for (std::size_t i = 0; i < places.size(); ++i) grads[places[i]] = found[i];
  }
};

}  // namespace

std::vector<Tensor> recompute(const CheckpointedFunction& block, const std::vector<Tensor>& inputs,
                              const std::vector<Tensor>& parameters) {
  HALFTONE_CHECK(!inputs.empty(), "[recomputed] expected at least one input, got none");
  if (!torch::GradMode::is_enabled()) {
    const WeightsHeld held(compute_context().weight_residency, parameters);
    return block(inputs);
  }
  return Recomputed::apply(at::TensorList(inputs), at::TensorList(parameters),
                           c10::make_intrusive<CheckpointedRun>(block, inputs.front().device()));
}

}  // namespace halftone
