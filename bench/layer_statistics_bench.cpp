// SPDX-License-Identifier: Apache-2.0
// What it costs to watch every layer (halftone::LayerStatistics), in whole steps of a Trainer.
//
//   layer_statistics_bench PRESET PRECISION[+MEMORY] BATCH SEQ_LEN THREADS STEPS
//
// First every second of STEPS steps is sampled, so that steps with and without a sample take turns
// and a change of the machine's pace meets both alike. Then runs of STEPS steps without the
// callback and with the interval that it chooses by itself take turns. On the wall, or with
// HALFTONE_BENCH_CLOCK=cpu in the process's own time, which other programs on the machine leave
// alone.
#include <fmt/format.h>

#include <cstdlib>
#include <ctime>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/train_step.h"
#include "halftone/halftone.h"

namespace {

using namespace halftone;

constexpr int kTurns = 3;

double seconds_now() {
  static const char* const name = std::getenv("HALFTONE_BENCH_CLOCK");
  static const bool own = name != nullptr && std::string_view(name) == "cpu";
  timespec time{};
  clock_gettime(own ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// The time from the end of one step to that of the next, by whether it was sampled.
struct StepClock : Callback {
  void on_step_end(Trainer& /*trainer*/, const StepMetrics& metrics) override {
    const double now = seconds_now();
    if (last) (metrics.logged.empty() ? plain : sampled).push_back(now - *last);
    last = now;
  }
  double total() const {
    double sum = 0;
    for (const std::vector<double>* part : {&plain, &sampled})
      for (const double seconds : *part) sum += seconds;
    return sum;
  }
  std::optional<double> last;
  std::vector<double> plain, sampled;
};

/// A language model on the same random tokens in each step.
struct Watched : TrainingModule<torch::Tensor> {
  Watched(const std::string& preset, const bench::Recipe& the_recipe)
      : recipe(the_recipe), model(register_module("model", CausalLM(bench::config_of(preset)))) {}
  torch::nn::Module& network() override { return *model; }
  torch::Tensor training_step(const torch::Tensor& ids, std::int64_t /*index*/) override {
    const std::int64_t length = ids.size(1) - 1;
    const torch::Tensor mask = torch::ones({ids.size(0), length});
    return model->loss(ids.narrow(1, 0, length), ids.narrow(1, 1, length), mask).total();
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    std::vector<std::pair<std::string, torch::Tensor>> named;
    for (const auto& item : model->named_parameters()) named.emplace_back(item.key(), item.value());
    return {std::make_shared<AdamW>(named, context.adamw({.lr = 1e-4}))};
  }
  bench::Recipe recipe;
  CausalLM model;
};

struct Bench {
  std::string preset;
  bench::Recipe recipe;
  std::string memory;
  torch::Tensor ids;
  std::int64_t steps = 0;

  /// `every`: nothing without the callback, 0 as it chooses.
  std::pair<std::shared_ptr<StepClock>, std::shared_ptr<LayerStatistics>> fit(
      std::optional<std::int64_t> every) const {
    torch::manual_seed(1);
    Watched module(preset, recipe);
    const auto clock = std::make_shared<StepClock>();
    TrainerOptions options{.max_steps = steps,
                           .precision = recipe.precision.name,
                           .accelerator = "cpu",
                           .gradient_clip_val = 1.0,
                           .enable_progress_bar = false,
                           .memory = {.memory = memory}};
    std::shared_ptr<LayerStatistics> watch;
    if (every) {
      watch = std::make_shared<LayerStatistics>(LayerStatisticsOptions{.every_n_steps = *every});
      options.callbacks.push_back(watch);
    }
    options.callbacks.push_back(clock);
    std::vector<torch::Tensor> batches{ids};
    Trainer(std::move(options)).fit(module, batches);
    return {clock, watch};
  }
};

void run(const Bench& bench) {
  const auto [turns, unused] = bench.fit(2);
  const double plain = median(turns->plain), sampled = median(turns->sampled);
  std::cout << fmt::format(
      "step {:.1f} ms, sampled {:.1f} ms: a sample takes {:.1f} ms, {:.1f} % of "
      "a step\n",
      1e3 * plain, 1e3 * sampled, 1e3 * (sampled - plain), 100 * (sampled / plain - 1));
  std::vector<double> ratios;
  std::vector<double> shares;
  std::int64_t every = 0;
  for (int i = 0; i < kTurns; ++i) {
    const double without = bench.fit(std::nullopt).first->total();
    const auto [clock, watch] = bench.fit(0);
    every = watch->every_n_steps();
    ratios.push_back(clock->total() / without);
    const StateDict pace = watch->state_dict();
    shares.push_back(pace.get<double>("sample_s") / pace.get<double>("step_s"));
  }
  std::cout << fmt::format(
                   "by its own clock a sample takes {:.1f} % of a step; so every {} steps, {:.2f} "
                   "% of the time\n",
                   100 * median(shares), every, 100 * median(shares) / static_cast<double>(every))
            << fmt::format("whole runs of {} steps, with / without, {} turns:", bench.steps,
                           kTurns);
  for (const double ratio : ratios) std::cout << fmt::format(" {:.3f}", ratio);
  std::cout << '\n';
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) {
    std::cerr << "usage: layer_statistics_bench PRESET PRECISION[+MEMORY] BATCH SEQ_LEN THREADS "
                 "STEPS\n";
    return 2;
  }
  try {
    keep_freed_memory();
    torch::set_num_threads(std::stoi(argv[5]));
    const std::string name = argv[2];
    const std::size_t plus = name.find('+');
    const std::int64_t vocabulary = bench::config_of(argv[1]).vocab_size;
    run({.preset = argv[1],
         .recipe = bench::recipe_of(name),
         .memory = plus == std::string::npos ? "standard" : name.substr(plus + 1),
         .ids = torch::randint(vocabulary, {std::stol(argv[3]), std::stol(argv[4]) + 1},
                               torch::kInt64),
         .steps = std::stol(argv[6])});
  } catch (const std::exception& error) {
    std::cerr << "layer_statistics_bench: error: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
