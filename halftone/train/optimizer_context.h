// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <utility>

#include "halftone/core/process_group.h"
#include "halftone/optim/adamw_options.h"
#include "halftone/precision/memory_policy.h"

namespace halftone {

/// What a run asks of its optimizers; TrainingModule::configure_optimizers() builds them for it.
struct OptimizerContext {
  MemoryPolicy memory;
  /// Processes that keep the states of a part of the parameters each; null: this one has all.
  std::shared_ptr<ProcessGroup> shard_over = nullptr;
  bool shard_gradients = false;  // over these, too
  bool shard_weights = false;    // likewise

  /// The options of a halftone::AdamW that does what the run asks for: `own` ones, such as the
  /// learning rate, and the run's beside them. Throws UserError where both ask for something and
  /// differ.
  AdamWOptions adamw(AdamWOptions own = {}) const {
    own = memory.adamw(std::move(own));
    own.shard_over = shard_over;
    own.shard_gradients = shard_gradients;
    own.shard_weights = shard_weights;
    return own;
  }
};

}  // namespace halftone
