// SPDX-License-Identifier: Apache-2.0
// Every strategy side by side: the same model, data and seeds in one precision after the other.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "halftone/pretrain/pretrain_inputs.h"
#include "halftone/pretrain/train_config.h"
#include "halftone/train/callback.h"

namespace halftone {

/// A precision with what belongs to it.
struct BenchVariant {
  std::string name;  // "bf16-true+nearest"
  std::string precision;
  std::string rounding = "stochastic";  // of the weights in bf16-true
};

/// "32-true" and so on: a precision; "bf16-true+nearest": with its weights rounded to nearest.
/// Throws UserError, which lists the recipes.
BenchVariant parse_recipe(const std::string& name);
/// All of them, the fp32 reference first.
std::vector<std::string> recipe_names();

/// One training of one recipe.
struct RecipeRun {
  std::string recipe;
  std::int64_t seed = 0;
  std::int64_t steps = 0;  // that were done
  std::int64_t skipped_steps = 0;
  // nan: it was not finite, or there was no step.
  double first_loss = std::numeric_limits<double>::quiet_NaN();
  double last_loss = first_loss;  // mean over the last tenth of the steps
  double step_ms = 0;             // median, without the first step where there are more
  std::uint64_t peak_bytes = 0;   // resident memory of the process at its peak during the run
  std::string failure;  // why it ended early, or that its last loss is not finite; else empty
};

/// Who watches the runs.
struct RecipeOptions {
  std::vector<std::shared_ptr<Callback>> callbacks;  // of each run's Trainer
  std::function<void(const std::string& recipe, std::int64_t seed)> on_start;  // may be empty
};

/// Trains every recipe once with each seed, for config.max_steps steps (REQUIRED), without writing
/// anything. A recipe that breaks down is a result. Ends early, with what there is, where a
/// callback stops a run.
std::vector<RecipeRun> compare_recipes(const TrainConfig& config, const PretrainInputs& inputs,
                                       const std::vector<BenchVariant>& recipes,
                                       const std::vector<std::int64_t>& seeds,
                                       const RecipeOptions& options = {});

}  // namespace halftone
