// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/manual_optimization.h"

#include <torch/autograd.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <unordered_set>

#include "halftone/autocast/autocast.h"
#include "halftone/core/error.h"
#include "halftone/core/scoped_value.h"
#include "halftone/train/optimizer_state.h"

namespace halftone {
namespace {

using TensorSet = std::unordered_set<const c10::TensorImpl*>;

TensorSet parameter_set(const torch::optim::Optimizer& optimizer) {
  TensorSet set;
  for (const torch::Tensor& parameter : parameters_of(optimizer))
    set.insert(parameter.unsafeGetTensorImpl());
  return set;
}

bool requires_any_gradient(const torch::optim::Optimizer& optimizer) {
  const std::vector<torch::Tensor> parameters = parameters_of(optimizer);
  return std::any_of(parameters.begin(), parameters.end(),
                     [](const torch::Tensor& parameter) { return parameter.requires_grad(); });
}

std::string waiting_prefix(std::size_t index) { return std::to_string(index) + "."; }

/// Around what training_step() has computed outside of its forward pass: no autocast, and the
/// context of the loop.
struct OutsideOfForward {
  OutsideOfForward(torch::Device device, const ComputeContext& outer)
      : autocast(autocast_device(device.type()), {}, /*enabled=*/false), compute(outer) {}
  Autocast autocast;
  ComputeScope compute;
};

}  // namespace

ToggledOptimizer::ToggledOptimizer(const torch::optim::Optimizer& kept, const Optimizers& all) {
  const TensorSet keeping = parameter_set(kept);
  for (const auto& optimizer : all)
    for (const torch::Tensor& parameter : parameters_of(*optimizer))
      if (parameter.requires_grad() && !keeping.contains(parameter.unsafeGetTensorImpl())) {
        parameter.requires_grad_(false);
        frozen_.push_back(parameter);
      }
}

ToggledOptimizer::~ToggledOptimizer() {
  for (const torch::Tensor& parameter : frozen_) parameter.requires_grad_(true);
}

void ManualOptimizer::zero_grad() { owner_->zero_grad(index_); }
StepResult ManualOptimizer::step(const GradientClip& clip) { return owner_->step(index_, clip); }
ToggledOptimizer ManualOptimizer::toggled() const { return {get(), owner_->optimizers()}; }
torch::optim::Optimizer& ManualOptimizer::get() const { return *owner_->optimizers()[index_]; }

double ManualOptimizer::learning_rate() const {
  return get().param_groups().front().options().get_lr();
}

ManualOptimization::ManualOptimization(MixedPrecision& precision, Optimizers optimizers)
    : precision_(precision), optimizers_(std::move(optimizers)), states_(optimizers_.size()) {
  for (std::size_t i = 0; i < optimizers_.size(); ++i) handles_.emplace_back(*this, i);
}

ManualOptimizer& ManualOptimization::optimizer(std::size_t index) {
  HALFTONE_CHECK(index < handles_.size(), "[trainer] expected the number of an optimizer below ",
                 handles_.size(), ", got ", index);
  return handles_[index];
}

void ManualOptimization::begin(StepHooks& hooks) {
  hooks_ = &hooks;
  outer_ = compute_context();
  outcome_ = {.result = {.grad_norm = 0.0}};
}

void ManualOptimization::note_backward() {
  for (std::size_t i = 0; i < optimizers_.size(); ++i)
    if (requires_any_gradient(*optimizers_[i])) states_[i].waiting = true;
}

void ManualOptimization::backward(const torch::Tensor& loss, bool retain_graph) {
  HALFTONE_CHECK(loss.defined() && loss.numel() == 1,
                 "[trainer] expected a scalar loss for manual_backward(), got ",
                 loss.defined() ? c10::str(loss.sizes()) : "an undefined tensor");
  if (collected_ != nullptr) {
    collected_->push_back(precision_.scaled(loss));
    return;
  }
  hooks_->on_before_backward(loss);
  {
    const OutsideOfForward outside(precision_.device(), outer_);
    precision_.backward(loss, retain_graph);
  }
  clear_autocast_cache();
  note_backward();
  hooks_->on_after_backward();
}

std::vector<torch::Tensor> ManualOptimization::gradients(const torch::Tensor& output,
                                                         const std::vector<torch::Tensor>& inputs) {
  const OutsideOfForward outside(precision_.device(), outer_);
  std::vector<torch::Tensor> found =
      torch::autograd::grad({precision_.scaled(output.sum())}, inputs, {}, /*retain_graph=*/true,
                            /*create_graph=*/true, /*allow_unused=*/true);
  if (const std::optional<double> scale = precision_.loss_scale())
    for (torch::Tensor& gradient : found)
      if (gradient.defined()) gradient = gradient.to(torch::kFloat) / *scale;
  return found;
}

void ManualOptimization::zero_grad(std::size_t index) {
  if (collected_ != nullptr) return;
  hooks_->on_before_zero_grad();
  halftone::zero_grad(*optimizers_[index]);
  states_[index].waiting = false;
}

StepResult ManualOptimization::step(std::size_t index, const GradientClip& clip) {
  if (collected_ != nullptr) return {.stepped = false};
  // The scaler takes one step of an optimizer between two moves of the scale.
  if (states_[index].stepped) move_scale();
  hooks_->on_before_optimizer_step();
  const StepResult result = precision_.step(*optimizers_[index], clip);
  if (!outcome_.scale) outcome_.scale = precision_.loss_scale();
  states_[index] = {.waiting = false, .stepped = true};
  clear_autocast_cache();
  add_step(outcome_.result, result);
  ++outcome_.steps;
  return result;
}

void ManualOptimization::move_scale() {
  const std::optional<double> before = precision_.loss_scale();
  const ScalerVerdict verdict = precision_.update();
  if (verdict.hopeless && !outcome_.verdict.hopeless) outcome_.verdict = verdict;
  for (State& state : states_) state.stepped = false;
  if (before) rescale_waiting(*precision_.loss_scale() / *before);
}

// They were computed with the scale of before, and will be divided by that of then.
void ManualOptimization::rescale_waiting(double factor) {
  if (factor == 1.0) return;
  const torch::NoGradGuard no_grad;
  for (std::size_t i = 0; i < optimizers_.size(); ++i) {
    if (!states_[i].waiting) continue;
    for (const torch::Tensor& gradient : gradients_of(*optimizers_[i]))
      if (gradient.defined()) gradient.mul_(factor);
  }
}

ManualOptimization::Outcome ManualOptimization::end() {
  const auto stepped = [](const State& state) { return state.stepped; };
  if (std::any_of(states_.begin(), states_.end(), stepped))
    move_scale();
  else
    outcome_.scale = precision_.loss_scale();
  hooks_ = nullptr;
  return std::exchange(outcome_, {});
}

torch::Tensor ManualOptimization::collect_losses(const std::function<void()>& pass) {
  std::vector<torch::Tensor> losses;
  outer_ = compute_context();
  const ScopedValue collecting(collected_, &losses);
  pass();
  if (losses.empty()) return {};
  return std::accumulate(losses.begin() + 1, losses.end(), losses.front());
}

StateDict ManualOptimization::state_dict() const {
  StateDict state;
  for (std::size_t i = 0; i < optimizers_.size(); ++i)
    if (states_[i].waiting) state.insert(waiting_prefix(i), gradient_state(*optimizers_[i]));
  return state;
}

void ManualOptimization::load_state_dict(const StateDict& state) {
  for (std::size_t i = 0; i < optimizers_.size(); ++i) {
    const StateDict waiting = state.extract(waiting_prefix(i));
    states_[i] = {.waiting = !waiting.tensors.empty(), .stepped = false};
    load_gradient_state(*optimizers_[i], waiting);
  }
}

}  // namespace halftone
