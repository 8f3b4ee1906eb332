// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "halftone/optim/adamw_options.h"
#include "halftone/precision/memory_policy.h"

namespace halftone {

/// What a run asks of its optimizers; TrainingModule::configure_optimizers() builds them for it.
struct OptimizerContext {
  MemoryPolicy memory;

  /// The options of a halftone::AdamW that does what the run asks for: `own` ones, such as the
  /// learning rate, and the run's beside them. Throws UserError where both ask for something and
  /// differ.
  AdamWOptions adamw(AdamWOptions own = {}) const { return memory.adamw(std::move(own)); }
};

}  // namespace halftone
