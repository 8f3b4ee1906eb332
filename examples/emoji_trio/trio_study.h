// SPDX-License-Identifier: Apache-2.0
// What emoji_trio.cpp tells of a training before it: its memory and time, and what a precision does
// to a step.
#pragma once

#include <halftone/diagnostics/compare/compare.h>
#include <halftone/diagnostics/compare/compare_summary.h>
#include <halftone/plan/memory_plan.h>
#include <halftone/plan/module_plan.h>
#include <halftone/train/saved_model.h>
#include <halftone/train/step_replay.h>

#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "trio_module.h"

struct Arguments {
  TrioOptions model;
  std::string run = "runs/trio";
  std::string speech;
  std::string precision = "bf16-mixed";
  std::string memory = "standard";
  std::vector<std::string> keep_fp32;
  std::uint64_t seed = 1;
  std::int64_t batch_size = 64;
  std::int64_t planned_batch = 0;
  std::int64_t epochs = 30;
  std::int64_t steps = 0;  // instead, if not 0
  std::int64_t limit = std::numeric_limits<std::int64_t>::max();
  std::int64_t threads = 1;
  bool resume = false;
  bool overwrite = false;
  std::vector<std::string> inputs;
  std::string picture;
  std::string budget = "2GiB";
  std::string from;       // a run, whose weights are compared
  std::int64_t rows = 8;  // tensors that are shown
};

inline std::shared_ptr<TrioModule> module_of(const halftone::SavedModel& saved) {
  const auto number = [&](const char* name) { return saved.hyper_parameter<std::int64_t>(name); };
  return std::make_shared<TrioModule>(
      TrioOptions{.width = number("width"),
                  .depth = number("depth"),
                  .decoder_dim = number("decoder_dim"),
                  .decoder_layers = number("decoder_layers"),
                  .tokenizer = saved.hyper_parameter<std::string>("tokenizer")});
}

/// The largest batch that fits, or one of a size, by recipe: memory and time before any training.
inline void plan(Arguments arguments) {
  const Trio trio(arguments.speech);  // is in memory, as in a training
  arguments.model.tokenizer = learn_caption_tokens(trio.emoji()).json();
  const halftone::PlannedTraining training = halftone::planned_training(
      [model = arguments.model] { return std::make_shared<TrioModule>(model); },
      TrioBatch::largest);
  halftone::measure_machine_speed();  // so that the process has what any that computes has
  const std::uint64_t process = halftone::process_bytes();
  const halftone::BatchBudget budget{.bytes = halftone::budget_bytes(arguments.budget)};
  std::vector<halftone::ModulePlan> plans;
  for (const std::string memory : {"standard", "lean"})
    for (const std::string precision : {"32-true", "bf16-mixed", "int8-mixed", "bf16-true"}) {
      const halftone::ModuleRecipe recipe{.precision = precision, .memory = {.memory = memory}};
      if (arguments.planned_batch > 0)
        plans.push_back(halftone::plan_module(training, recipe, arguments.planned_batch, process));
      else if (const auto fits = halftone::largest_batch(training, recipe, budget, process))
        plans.push_back(*fits);
    }
  const auto samples = std::ssize(trio.trained());
  std::printf(
      "%s",
      halftone::module_plans_text(plans, samples, halftone::measure_machine_speed(plans)).c_str());
}

/// The first batch in two precisions, tensor by tensor.
inline void compare(Arguments arguments) {
  const auto trio = std::make_shared<const Trio>(arguments.speech);
  arguments.model.tokenizer = learn_caption_tokens(trio->emoji()).json();
  torch::manual_seed(arguments.seed);
  auto module = std::make_shared<TrioModule>(arguments.model);
  if (!arguments.from.empty()) {
    const halftone::SavedModel saved = halftone::load_saved_model(arguments.from);
    module = module_of(saved);
    halftone::load_weights(*module, saved);
  }
  const TrioLoader loader({trio, trio->trained()}, {.batch_size = arguments.batch_size},
                          {module->tokenizer});
  const halftone::Comparison comparison = halftone::compare_precisions(
      halftone::training_step_on(*module, loader.batch_at(0)),
      {.precision = arguments.precision, .keep_fp32 = arguments.keep_fp32});
  std::printf("%s\n%s\n", halftone::verdict_sentence(comparison).c_str(),
              comparison.judgement.reason.c_str());
  for (const halftone::TensorComparison* tensor : halftone::worst_first(comparison)) {
    if (--arguments.rows < 0) break;
    std::printf("%-20s error %-8s rounding %-8s cosine %-8s %s\n",
                halftone::to_string(tensor->kind), halftone::shown_error(*tensor).c_str(),
                halftone::shown_error(tensor->tolerance).c_str(),
                halftone::shown_cosine(*tensor).c_str(), tensor->name.c_str());
  }
}
