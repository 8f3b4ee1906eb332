// SPDX-License-Identifier: Apache-2.0
// Memory and time of training any TrainingModule on the CPU, before anything is allocated.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "halftone/plan/memory_plan.h"
#include "halftone/plan/step_memory.h"
#include "halftone/plan/step_time.h"
#include "halftone/plan/step_work.h"
#include "halftone/precision/memory_policy.h"
#include "halftone/train/training_module.h"

namespace halftone {

/// A module and its batches, made anew for each plan.
struct PlannedTraining {
  std::function<PlannedModule(std::int64_t batch_size)> make;
};

/// `make_module()` gives a std::shared_ptr to a TrainingModule, `make_batch(n)` a batch of n
/// samples. Both run in the place where step_memory() says what has data: neither may read a file
/// into the module, nor look at numbers of tensors.
template <class MakeModule, class MakeBatch>
PlannedTraining planned_training(MakeModule make_module, MakeBatch make_batch);

/// How a run trains.
struct ModuleRecipe {
  std::string precision = "32-true";  // a name of precision_names()
  MemoryOptions memory = {};
  std::vector<std::string> layer_precision = {};  // formats of single layers
  std::int64_t micro_batches = 1;                 // of an optimizer step
};

struct ModulePlan {
  ModuleRecipe recipe;
  std::int64_t batch_size = 1;  // of a micro-batch
  MemoryBytes bytes;            // of the process at its peak, as peak_memory() has them
  StepWork work;                // of an optimizer step
  double update_bytes = 0;      // that a fused optimizer reads and writes
};

/// `process`: process_bytes(). The plan lacks the copies that callbacks such as WeightAveraging
/// keep. Machine code that oneDNN makes for each shape of a layer's matmul is workspace; batches of
/// other shapes, which the plan does not see, add 650 KiB for each such shape. Throws UserError for
/// a recipe that can't be, as memory_policy() does, and as step_memory().
ModulePlan plan_module(const PlannedTraining& training, const ModuleRecipe& recipe,
                       std::int64_t batch_size, std::uint64_t process);

/// Every one of `precisions` with `recipe`'s other choices; what these exclude is left out.
std::vector<ModulePlan> plan_precisions(const PlannedTraining& training,
                                        const std::vector<std::string>& precisions,
                                        const ModuleRecipe& recipe, std::int64_t batch_size,
                                        std::uint64_t process);

/// The plan of the largest batch, up to `most`, whose peak fits into `budget`; nothing where that
/// of one sample does not.
struct BatchBudget {
  std::uint64_t bytes = 0;  // of the whole process; budget_bytes() reads a text
  std::int64_t most = std::int64_t{1} << 20U;
};
std::optional<ModulePlan> largest_batch(const PlannedTraining& training, const ModuleRecipe& recipe,
                                        const BatchBudget& budget, std::uint64_t process);

/// Measures the machine, and the layers of all plans in their shapes, for some seconds.
MachineSpeed measure_machine_speed(const std::vector<ModulePlan>& plans);

/// Of an optimizer step. Loading data, callbacks and validation are not in it.
double step_seconds(const ModulePlan& plan, const MachineSpeed& speed);
/// Of an epoch of so many samples.
double epoch_seconds(const ModulePlan& plan, std::int64_t samples, const MachineSpeed& speed);

/// A table of the plans, a line each: batch, memory by kind, seconds of a step and of an epoch.
std::string module_plans_text(const std::vector<ModulePlan>& plans, std::int64_t samples,
                              const MachineSpeed& speed);

template <class MakeModule, class MakeBatch>
PlannedTraining planned_training(MakeModule make_module, MakeBatch make_batch) {
  return {[=](std::int64_t batch_size) {
    return planned_module(make_module(), [=] { return make_batch(batch_size); });
  }};
}

}  // namespace halftone
