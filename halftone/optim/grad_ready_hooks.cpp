// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/grad_ready_hooks.h"

#include <memory>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/optim/arrival_hook_impl.h"

namespace halftone {

GradReadyHooks::GradReadyHooks(const ParameterArena& arena, Ready ready)
    : arena_(arena), ready_(std::move(ready)), awaited_(arena.size()) {
  for (std::size_t i = 0; i < awaited_.size(); ++i) {
    for (const torch::Tensor& variable : arena_.variables(i)) {
      if (!variable.requires_grad()) continue;
      ++awaited_[i];
      ArrivalHook::Hook& hook = arrival_hook_of(variable);
      hook = std::make_unique<ArrivalHook>(std::move(hook), [this, i] { arrived(i); });
    }
  }
}

GradReadyHooks::~GradReadyHooks() {
  for (std::size_t i = 0; i < awaited_.size(); ++i) {
    for (const torch::Tensor& variable : arena_.variables(i)) {
      if (!variable.requires_grad()) continue;
      ArrivalHook::Hook& hook = arrival_hook_of(variable);
      hook = static_cast<ArrivalHook&>(*hook).take_before();
    }
  }
}

// The engine has a thread for each device.
void GradReadyHooks::arrived(std::size_t index) {
  const std::lock_guard<std::mutex> lock(mutex_);
  HALFTONE_CHECK(awaited_[index] > 0,
                 "[optimizer_in_backward] expected one backward pass, but the gradient of '",
                 arena_.names()[index], "' came twice: add the losses up and call backward() once");
  if (--awaited_[index] == 0) ready_(index);
}

}  // namespace halftone
