// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/grad_ready_hooks.h"

#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/kernels/common/grad_ready_hook_impl.h"

namespace halftone {

GradReadyHooks::GradReadyHooks(const ParameterArena& arena, Ready ready)
    : arena_(arena), ready_(std::move(ready)), awaited_(arena.size()) {
  for (std::size_t i = 0; i < awaited_.size(); ++i) {
    for (const torch::Tensor& variable : arena_.variables(i)) {
      if (!variable.requires_grad()) continue;
      ++awaited_[i];
      auto accumulator = torch::autograd::impl::grad_accumulator(variable);
      const auto hook =
          accumulator->add_post_hook(std::make_unique<GradReadyHook>([this, i] { arrived(i); }));
      removals_.emplace_back([kept = std::move(accumulator), hook] { kept->del_post_hook(hook); });
    }
  }
}

GradReadyHooks::~GradReadyHooks() {
  for (const auto& remove : removals_) remove();
}

// The engine has a thread for each device.
void GradReadyHooks::arrived(std::size_t index) {
  const std::lock_guard<std::mutex> lock(mutex_);
  HALFTONE_CHECK(awaited_[index] > 0,
                 "[grad_ready_hooks] expected one backward pass, but the gradient of '",
                 arena_.names()[index], "' came twice: add the losses up and call backward() once");
  if (--awaited_[index] == 0) ready_(index);
}

}  // namespace halftone
