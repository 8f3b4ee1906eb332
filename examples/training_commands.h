// SPDX-License-Identifier: Apache-2.0
// What programs that train a module of their own share: what `train` may be told and prints, and
// the commands `compare` and `plan`.
#pragma once

#include <halftone/core/text.h>
#include <halftone/diagnostics/compare/compare.h>
#include <halftone/diagnostics/compare/comparison_text.h>
#include <halftone/plan/memory_plan.h>
#include <halftone/plan/recipe_plans.h>
#include <halftone/train/loaded_model.h>
#include <halftone/train/step_replay.h>
#include <halftone/train/trainer.h>
#include <halftone/train/training_cost.h>

#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "examples/example_program.h"

/// A Trainer's options, of which the command line has said some; the others of train_options() are
/// what these programs want.
struct TrainOptions : halftone::TrainerOptions {
  bool resume = false;
};

/// --out, `usual_out` if it is not given, --precision and what else any training may be told.
inline TrainOptions& train_options(Command& command, const std::string& usual_out) {
  TrainOptions& options = command.kept(TrainOptions());
  options.default_root_dir = usual_out;
  options.precision = "bf16-mixed";
  options.seed = 1;
  options.gradient_clip_val = 1.0;
  options.enable_progress_bar = true;
  options.num_sanity_val_steps = 0;
  command.bound("--out", options.default_root_dir, "Folder of the run");
  command.bound("--precision", options.precision, "As docs/numerics.md lists them");
  command.keep_fp32(options.keep_fp32);
  command.bound("--memory", options.memory.memory, "standard, lean or leanest");
  command.bound("--seed", options.seed, "Of weights, order and all that is random");
  command.flag("--overwrite", options.overwrite, "Whatever run is in --out");
  command.flag("--resume", options.resume, "Go on with the run in --out");
  return options;
}

/// Ends the program as shells expect it where Ctrl-C or another signal has ended the training.
inline void throw_if_stopped(const halftone::Trainer& trainer) {
  if (trainer.stop_signal()) throw StoppedBySignal{*trainer.stop_signal()};
}

/// "156 steps: an epoch takes 95.9 s, 94.9 s of CPU time; at most 1.4 GiB in memory".
inline void print_cost(const halftone::TrainingCost& cost, std::int64_t steps_of_epoch) {
  const auto steps = static_cast<double>(steps_of_epoch);
  std::printf("%ld steps: an epoch takes %.1f s, %.1f s of CPU time; at most %s in memory\n",
              cost.steps(), cost.step_seconds() * steps, cost.step_cpu_seconds() * steps,
              halftone::format_bytes(cost.peak_bytes()).c_str());
}

/// "test_accuracy  0.9153", a line for each, in the order of their names.
inline void print_metrics(const std::map<std::string, double>& values) {
  for (const auto& [name, value] : values) std::printf("%-36s %.4f\n", name.c_str(), value);
}

/// The command `compare`: which tensors of a step of a trained Module a precision gets wrong.
/// `batch_of(module, size)` is the step's batch.
template <class Module, class BatchOf>
void compare_step(Command& command, std::int64_t usual_batch_size, const BatchOf& batch_of) {
  const std::string& run = command.run();
  const std::string& precision = command.precision();
  std::vector<std::string>& keep_fp32 = command.kept(std::vector<std::string>());
  command.keep_fp32(keep_fp32);
  const std::int64_t& batch_size =
      command.count("--batch-size", usual_batch_size, "Samples of the step");
  const std::int64_t& rows = command.count("--rows", 16, "Tensors to show, the worst first");
  command.read();
  const auto module = halftone::LoadedModel<Module>(run, {}).module;
  module->train();
  const halftone::Comparison found = halftone::compare_precisions(
      halftone::training_step_on(*module, batch_of(*module, batch_size)),
      {.precision = precision, .keep_fp32 = keep_fp32});
  const halftone::ComparisonTextOptions text{.rows = static_cast<std::size_t>(rows)};
  std::printf("%s", halftone::comparison_text(found, text).c_str());
}

/// What `plan` may be told.
struct PlanOptions {
  std::vector<std::string> precisions = {"32-true", "bf16-mixed", "int8-mixed", "bf16-true"};
  std::vector<std::string> memory = {"standard", "lean"};
  std::int64_t batch_size = 0;
  std::string budget;
};

inline PlanOptions& plan_options(Command& command, std::int64_t usual_batch_size) {
  PlanOptions& options = command.kept(PlanOptions());
  options.batch_size = usual_batch_size;
  command.bound("--precisions", options.precisions, "One after the other");
  command.bound("--memory", options.memory, "Memory policies, each with each precision");
  command.bound("--batch-size", options.batch_size, "Samples of a step; 0: only --budget",
                /*is_zero_fine=*/true);
  command.budget(options.budget, "Also the largest batch that it holds: 2GiB");
  return options;
}

/// Memory and seconds of each recipe, and the largest batch that the budget holds. To be called
/// when all that the training has in memory is there. `weight_copies`: as RecipePlanOptions has
/// them.
inline void print_plan(const PlanOptions& options, const halftone::PlannedTraining& training,
                       std::int64_t samples, std::int64_t weight_copies = 0) {
  halftone::RecipePlanOptions recipes{
      .recipes = halftone::recipes_of(options.precisions, options.memory),
      .batch_size = options.batch_size,
      .samples = samples,
      .weight_copies = weight_copies};
  if (!options.budget.empty()) recipes.budget = halftone::budget_bytes(options.budget);
  std::printf("%s", halftone::recipe_plans_text(training, recipes).c_str());
}
