// SPDX-License-Identifier: Apache-2.0
// What could make the training step of a configuration faster on this machine, to be measured.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "halftone/diagnostics/profile/step_changes.h"
#include "halftone/plan/run_plan.h"
#include "halftone/pretrain/ready_step.h"

namespace halftone {

/// One change of a configuration.
struct ConfigChange {
  std::string change;  // "--precision bf16-mixed"
  std::string caveat;  // what else it changes; may be empty
  TrainConfig config;  // with it
  /// Settings of the process instead of another model; both or none.
  std::function<void()> enter;
  std::function<void()> leave;
};

/// Those worth trying for `config` on this machine, what `plan` predicts to gain most first:
/// another precision of fp32 weights, activations kept instead of recomputed, memory as standard
/// has it, keep_fp32 left out, another way of the matmuls, other numbers of threads, a larger
/// micro-batch. `plan`: plan_run() of it, on the CPU.
std::vector<ConfigChange> changes_to_try(const TrainConfig& config,
                                         const std::optional<RunPlan>& plan);

/// What measure_changes() takes. `now` is the step of the present configuration, `inputs` its data.
/// A change whose model would not fit into memory beside the present one fails when it is made.
std::vector<StepChange> as_step_changes(const std::vector<ConfigChange>& changes, ReadyStep& now,
                                        const PretrainInputs& inputs);

/// The recipe of `plan` that `config` trains in; nothing where it has none.
std::optional<RecipePlan> planned_recipe(const RunPlan& plan, const TrainConfig& config);

}  // namespace halftone
