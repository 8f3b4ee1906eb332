// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/types.h>

#include <functional>
#include <memory>
#include <utility>

namespace halftone {

/// A leaf's hook that autograd runs when the last node that adds to its gradient has: runs the hook
/// that was there before, then tells that the gradient has come.
class ArrivalHook : public torch::autograd::PostAccumulateGradHook {
 public:
  using Hook = std::unique_ptr<torch::autograd::PostAccumulateGradHook>;

  ArrivalHook(Hook before, std::function<void()> arrived)
      : before_(std::move(before)), arrived_(std::move(arrived)) {}

  void operator()(const torch::Tensor& variable) override {
    if (before_) (*before_)(variable);
    arrived_();
  }
  Hook take_before() { return std::move(before_); }

 private:
  Hook before_;
  std::function<void()> arrived_;
};

/// The place of a leaf's hook.
inline ArrivalHook::Hook& arrival_hook_of(const torch::Tensor& variable) {
  return torch::autograd::impl::post_acc_grad_hooks(variable);
}

}  // namespace halftone
