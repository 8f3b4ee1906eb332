// SPDX-License-Identifier: Apache-2.0
// The cost of a run in every recipe, memory and seconds per step, without training.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "halftone/models/model_config.h"
#include "halftone/plan/exchange_time.h"
#include "halftone/plan/memory_plan.h"
#include "halftone/plan/step_time.h"
#include "halftone/precision/memory_policy.h"

namespace halftone {

/// One precision with one way of keeping things.
struct RecipePlan {
  std::string precision;
  std::vector<std::string> layer_precision;  // formats of single layers
  std::string memory;                        // "standard", "lean"
  MemoryBytes bytes;
  double step_s = 0;         // of an optimizer step, with the exchange that is exposed
  ExchangeSeconds exchange;  // of these, between several processes
  bool fits = false;         // into the budget
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

/// A run on the CPU that is not trained yet.
struct PlanRequest {
  ModelConfig model;  // its vocab_size is known
  StepShape shape;
  std::string precision;                          // a name of precision_names(), or "auto"
  std::vector<std::string> layer_precision = {};  // in that precision (train/layer_precision.h)
  MemoryOptions memory;
  std::uint64_t budget_bytes = 0;  // the largest number: unlimited
  LoraConfig lora = {};            // adapters that are trained in the place of the weights
  AdamWShare share = {};           // of the processes that train together, each with such a step
  /// Without it the time of their exchange is not predicted.
  std::optional<ExchangeSpeed> exchange = {};
};

/// The recipe that `request` names; its time is not predicted.
RecipePlan plan_memory(const PlanRequest& request, std::uint64_t process);

/// Every precision with every `memory`. The other keys of memory are the request's; a recipe that
/// they exclude is left out, and what applies gradients at once where there are several processes
/// or a tree of sums. `speed`: of one of several processes while the others of its host compute.
/// Formats of single layers are those of the request's precision only. `process`: process_bytes().
RunPlan plan_run(const PlanRequest& request, const MachineSpeed& speed, std::uint64_t process);

/// Throws UserError, which names a recipe that would fit, if the run needs more than its budget.
/// For the process that is to train, before it has a model.
void check_memory(const PlanRequest& request);

}  // namespace halftone
