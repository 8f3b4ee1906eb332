// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "halftone/kernels/common/grad_ready_hook_impl.h"

namespace halftone {
namespace {

thread_local bool inside_operation = false;

}  // namespace

bool in_nested_backward() { return inside_operation; }

NestedBackward::NestedBackward() : inside_(inside_operation, true) {}

bool has_hooks_that_look(torch::autograd::Node& accumulator) {
  const auto looks = [](const auto& hook) {
    return dynamic_cast<const GradReadyHook*>(hook.get()) == nullptr;
  };
  const auto& after = accumulator.post_hooks();
  return std::any_of(after.begin(), after.end(), looks) || !accumulator.pre_hooks().empty() ||
         !accumulator.tensor_pre_hooks().empty() || !accumulator.retains_grad_hooks().empty();
}

}  // namespace halftone
