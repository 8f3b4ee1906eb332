// SPDX-License-Identifier: Apache-2.0
// What it costs to record a step, operation by operation (halftone::profile_step): the time that
// the recorder takes, which the profile leaves out, and what is left in the times of operations.
//
//   profile_bench PRESET PRECISION[+MEMORY] BATCH SEQ_LEN THREADS STEPS
//
// Unobserved and recorded steps take turns; medians are printed, in milliseconds.
#include <fmt/format.h>
#include <torch/utils.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "bench/train_step.h"
#include "halftone/halftone.h"

namespace {

using namespace halftone;

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
  return values[values.size() / 2];
}

/// A language model on the same random tokens each time.
struct Text : TrainingModule<torch::Tensor> {
  Text(const std::string& preset, const MemoryPolicy& policy)
      : memory(policy), model(register_module("model", MiniMindLM(bench::config_of(preset)))) {}
  torch::nn::Module& network() override { return *model; }
  torch::Tensor training_step(const torch::Tensor& ids, std::int64_t /*index*/) override {
    const std::int64_t length = ids.size(1) - 1;
    return model
        ->loss(ids.narrow(1, 0, length), ids.narrow(1, 1, length),
               torch::ones({ids.size(0), length}))
        .total();
  }
  std::vector<OptimizerSetup> configure_optimizers() override {
    std::vector<std::pair<std::string, torch::Tensor>> named;
    for (const auto& item : model->named_parameters()) named.emplace_back(item.key(), item.value());
    AdamWOptions options;
    memory.apply_to(options);
    return {std::make_shared<AdamW>(std::move(named), options)};
  }

  MemoryPolicy memory;
  MiniMindLM model;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) {
    std::cerr << "usage: profile_bench PRESET PRECISION[+MEMORY] BATCH SEQ_LEN THREADS STEPS\n";
    return 2;
  }
  keep_freed_memory();
  const std::vector<std::string> words(argv + 1, argv + argc);
  torch::set_num_threads(std::stoi(words[4]));
  const bench::Recipe recipe = bench::recipe_of(words[1]);
  Text module(words[0], recipe.memory);
  const std::int64_t vocabulary = module.model->config().vocab_size;
  const torch::Tensor ids =
      torch::randint(vocabulary, {std::stoi(words[2]), std::stoi(words[3]) + 1});
  MixedPrecision precision(recipe.precision, {}, torch::kCPU, recipe.memory);
  precision.convert_module(*module.model);
  RepeatedStep step(training_step_on(module, ids), precision,
                    {module.configure_optimizers().front().optimizer}, {.clip = {.value = 1.0}});
  const StepProfile profile =
      profile_step(step, {.steps = std::stoi(words[5]), .measures_peaks = false});
  double calls = 0;
  for (const OperationCost& one : profile.operations) calls += one.calls;
  std::cout << fmt::format(
      "{} {}, {} x {}, {} threads, {} steps: unobserved {:.2f} ms, recorded {:.2f} ms with the "
      "recorder and {:.2f} ms without ({:+.1f} %), {:.0f} calls\n",
      words[0], words[1], words[2], words[3], words[4], words[5], 1e3 * typical_step_s(profile),
      1e3 * median(profile.observed_s), 1e3 * median(profile.recorded_steps_s),
      100 * observer_share(profile), calls);
  return 0;
}
