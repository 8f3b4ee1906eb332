// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/recipes.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/median.h"
#include "halftone/core/text.h"
#include "halftone/pretrain/config_precision.h"
#include "halftone/system/memory.h"

namespace halftone {
namespace {

const std::vector<BenchVariant>& recipes() {
  static const std::vector<BenchVariant> table = [] {
    std::vector<BenchVariant> all;
    for (const std::string& name : precision_names()) {
      all.push_back({.name = name, .precision = name});
      if (parse_precision(name).stochastic_rounding)
        all.push_back({.name = name + "+nearest", .precision = name, .rounding = "nearest"});
    }
    return all;
  }();
  return table;
}

class RunRecorder : public Callback {
 public:
  void on_step_end(Trainer& /*trainer*/, const StepMetrics& metrics) override {
    losses_.push_back(metrics.loss);
    times_.push_back(metrics.step_ms);
    skipped_ += metrics.skipped ? 1 : 0;
  }

  void fill(RecipeRun& run) const {
    run.steps = std::ssize(losses_);
    run.skipped_steps = skipped_;
    // The first step is not typical: its memory is new.
    run.step_ms = median({times_.begin() + (times_.size() > 1 ? 1 : 0), times_.end()});
    run.peak_bytes = peak_resident_bytes();
    if (losses_.empty()) return;
    run.first_loss = losses_.front();
    const std::int64_t tail = std::max<std::int64_t>(1, run.steps / 10);
    double sum = 0;
    for (auto loss = losses_.end() - tail; loss != losses_.end(); ++loss) sum += *loss;
    run.last_loss = sum / static_cast<double>(tail);
    if (!std::isfinite(run.last_loss) && run.failure.empty())
      run.failure = fmt::format("the loss of the last {} is not finite",
                                tail == 1 ? "step" : fmt::format("{} steps", tail));
  }

 private:
  std::vector<double> losses_;
  std::vector<double> times_;
  std::int64_t skipped_ = 0;
};

/// Adds the run to `runs`; returns whether it was stopped.
bool train_once(TrainConfig config, const PretrainInputs& inputs, const BenchVariant& recipe,
                const RecipeOptions& watchers, std::vector<RecipeRun>& runs) {
  config = in_precision(std::move(config), recipe.precision);
  config.memory.rounding = recipe.rounding;
  RecipeRun run{.recipe = recipe.name, .seed = config.seed};
  reset_peak_resident_bytes();
  LanguageModeling module = make_module(config, inputs);
  TokenLoader loader = make_loader(config, inputs);
  TrainerOptions options = trainer_options_for(config);
  const auto recorder = std::make_shared<RunRecorder>();
  options.callbacks = watchers.callbacks;
  options.callbacks.insert(options.callbacks.begin(), recorder);
  Trainer trainer(std::move(options));
  try {
    trainer.fit(module, loader);
  } catch (const SystemError& error) {
    run.failure = error.what();
  }
  recorder->fill(run);
  runs.push_back(std::move(run));
  return trainer.stopped();
}

}  // namespace

std::vector<std::string> recipe_names() {
  std::vector<std::string> names;
  for (const BenchVariant& recipe : recipes()) names.push_back(recipe.name);
  return names;
}

BenchVariant parse_recipe(const std::string& name) {
  for (const BenchVariant& recipe : recipes())
    if (recipe.name == name) return recipe;
  const std::optional<std::string> nearest = nearest_match(name, recipe_names());
  throw UserError(fmt::format("expected a recipe out of {}, got '{}'{}",
                              fmt::join(recipe_names(), ", "), name,
                              nearest ? fmt::format("; did you mean '{}'?", *nearest) : ""));
}

std::vector<RecipeRun> compare_recipes(const TrainConfig& config, const PretrainInputs& inputs,
                                       const std::vector<BenchVariant>& recipes,
                                       const std::vector<std::int64_t>& seeds,
                                       const RecipeOptions& options) {
  HALFTONE_CHECK(config.max_steps && !recipes.empty() && !seeds.empty(),
                 "[recipes] expected max_steps, recipes and seeds");
  std::vector<RecipeRun> runs;
  for (const std::int64_t seed : seeds) {
    for (const BenchVariant& recipe : recipes) {
      if (options.on_start) options.on_start(recipe.name, seed);
      TrainConfig one = config;
      one.seed = seed;
      if (train_once(std::move(one), inputs, recipe, options, runs)) return runs;
    }
  }
  return runs;
}

}  // namespace halftone
