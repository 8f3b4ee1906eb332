// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <mutex>
#include <vector>

#include "halftone/optim/parameter_arena.h"

namespace halftone {

/// While it lives, calls `ready` for each parameter whose gradient autograd has completed: when all
/// nodes that have a gradient for the tensors that are the parameter are done, whether they gave it
/// to autograd or wrote it themselves. One call at a time, on a thread of autograd. A second
/// backward pass throws c10::Error.
class GradReadyHooks {
 public:
  using Ready = std::function<void(std::size_t index)>;

  /// `arena` must outlive it.
  GradReadyHooks(const ParameterArena& arena, Ready ready);
  ~GradReadyHooks();
  GradReadyHooks(const GradReadyHooks&) = delete;
  GradReadyHooks& operator=(const GradReadyHooks&) = delete;

 private:
  void arrived(std::size_t index);

  const ParameterArena& arena_;
  Ready ready_;
  std::mutex mutex_;
  std::vector<std::size_t> awaited_;  // tensors of each parameter whose gradient has not come
  std::vector<std::function<void()>> removals_;
};

}  // namespace halftone
