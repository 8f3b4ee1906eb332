// SPDX-License-Identifier: Apache-2.0
// What a run would cost in every recipe: memory and seconds per step, without training.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "halftone/models/model_config.h"
#include "halftone/plan/memory_plan.h"
#include "halftone/plan/step_time.h"
#include "halftone/pretrain/train_config.h"

namespace halftone {

/// One precision with one way of keeping things.
struct RecipePlan {
  std::string precision;
  std::string memory;  // "standard", "lean"
  MemoryBytes bytes;
  double step_s = 0;  // of an optimizer step
  bool fits = false;  // into the budget
};

struct RunPlan {
  std::uint64_t budget_bytes = 0;  // the largest number: unlimited
  /// Those that fit come first, the fastest first, but those of memory "leanest" behind the others:
  /// they learn less (docs/memory.md). Then those that do not, the smallest first.
  std::vector<RecipePlan> recipes;
  /// The first of them, if it fits. Of recipes whose times differ by less than a twentieth, the one
  /// with the finest numbers counts as the fastest.
  std::optional<RecipePlan> choice;
};

/// The model that `config` trains, where no data has been read: its vocabulary is that of its
/// tokenizer, or what a tokenizer trained on the data would have at most. Throws UserError.
ModelConfig planned_model(const TrainConfig& config);

/// The tokens of an optimizer step of `config`.
StepShape step_shape(const TrainConfig& config);

/// `config`'s own recipe; its time is not predicted.
RecipePlan plan_memory(const TrainConfig& config, const ModelConfig& model, std::uint64_t process);

/// Of every precision with every `memory`; the other keys of memory are `config`'s, and leave out
/// the recipes that they exclude. `process`: process_bytes().
RunPlan plan_run(const TrainConfig& config, const ModelConfig& model, const MachineSpeed& speed,
                 std::uint64_t process);

/// Throws UserError, which names a recipe that would fit, where a run on the CPU needs more than
/// config.memory_budget allows. For the process that is to train, before it has a model.
void check_memory(const TrainConfig& config, const ModelConfig& model);

}  // namespace halftone
