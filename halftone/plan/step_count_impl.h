// SPDX-License-Identifier: Apache-2.0
// All that one run of a step on the device meta tells.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "halftone/optim/parameter_arena.h"
#include "halftone/plan/step_memory.h"
#include "halftone/plan/step_work.h"

namespace halftone {

struct StepCount {
  StepMemory memory;
  StepWork work;                         // up to the update; with it where no optimizer is fused
  double gradients = 0;                  // bytes that are there when the update begins
  double loaded_batch = 0;               // bytes of one as it is loaded, where the plan makes it
  double cast_batch = 0;                 // of what a step takes of it in another dtype
  double numbers = 0;                    // parameters of the module
  bool has_fused_optimizer = false;      // whose gradients are part of memory.optimizer
  std::vector<ParameterShape> learning;  // as stored
};

/// As step_memory().
StepCount count_step(const std::function<PlannedModule()>& make, std::int64_t micro_batches,
                     const NumericsConfig& numerics);

}  // namespace halftone
