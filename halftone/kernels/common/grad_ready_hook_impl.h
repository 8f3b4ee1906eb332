// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>

#include <functional>
#include <utility>

#include "halftone/core/scoped_value.h"

namespace halftone {

/// Whether this thread runs a backward pass within an operation's backward(), which brings some of
/// a parameter's gradient; the outer pass tells when all of it has come.
bool in_nested_backward();

/// While it lives, the backward passes that this thread runs are such.
class NestedBackward {
 public:
  NestedBackward();

 private:
  ScopedValue<bool> inside_;
};

/// A hook of a leaf's accumulator, the node that adds to .grad: tells when all nodes that have a
/// gradient for the leaf are done. It reads no gradient, so one that an operation wrote to .grad
/// itself (kernels/linear/fused_grad_accumulation.h) has come as any other.
class GradReadyHook : public torch::autograd::FunctionPostHook {
 public:
  explicit GradReadyHook(std::function<void()> ready) : ready_(std::move(ready)) {}

  torch::autograd::variable_list operator()(
      const torch::autograd::variable_list& outputs,
      const torch::autograd::variable_list& /*inputs*/) override {
    if (!in_nested_backward()) ready_();
    return outputs;
  }

 private:
  std::function<void()> ready_;
};

/// Whether `accumulator` has hooks that must see the gradient.
bool has_hooks_that_look(torch::autograd::Node& accumulator);

}  // namespace halftone
