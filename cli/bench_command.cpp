// SPDX-License-Identifier: Apache-2.0
#include "cli/bench_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/arguments.h"
#include "cli/program.h"
#include "cli/progress.h"
#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/pretrain/pretrain_inputs.h"
#include "halftone/pretrain/recipes.h"
#include "halftone/system/interrupt.h"
#include "halftone/train/trainer.h"

namespace halftone::cli {
namespace {

struct BenchArguments {
  std::vector<std::string> recipes;
  std::vector<std::int64_t> seeds;
  bool json = false;
};

/// Shows how far a run is, and ends it at a signal.
class BenchProgress : public Callback {
 public:
  explicit BenchProgress(ShareProgress& bar) : bar_(bar) {}

  void on_step_end(Trainer& trainer, const StepMetrics& /*metrics*/) override {
    bar_.show(trainer.loop().progress());
    if (interrupted()) trainer.stop();
  }

 private:
  ShareProgress& bar_;
};

/// The runs of one recipe, over its seeds.
struct RecipeSummary {
  std::string recipe;
  double loss = 0;         // mean
  double loss_spread = 0;  // largest less smallest
  double step_ms = 0;
  double tokens_per_s = 0;
  std::uint64_t peak_bytes = 0;
  std::int64_t skipped_steps = 0;
  std::string failure;
};

RecipeSummary summary_of(const std::string& recipe, const std::vector<RecipeRun>& runs,
                         double tokens_per_step) {
  RecipeSummary summary{.recipe = recipe};
  double lowest = INFINITY;
  double highest = -INFINITY;
  double count = 0;
  for (const RecipeRun& run : runs) {
    if (run.recipe != recipe) continue;
    ++count;
    summary.loss += run.last_loss;
    lowest = std::min(lowest, run.last_loss);
    highest = std::max(highest, run.last_loss);
    summary.step_ms += run.step_ms;
    summary.peak_bytes = std::max(summary.peak_bytes, run.peak_bytes);
    summary.skipped_steps += run.skipped_steps;
    if (summary.failure.empty()) summary.failure = run.failure;
  }
  summary.loss /= count;
  summary.step_ms /= count;
  summary.loss_spread = highest - lowest;
  if (summary.step_ms > 0) summary.tokens_per_s = tokens_per_step * 1e3 / summary.step_ms;
  return summary;
}

std::vector<RecipeSummary> summaries_of(const std::vector<RecipeRun>& runs,
                                        double tokens_per_step) {
  std::vector<RecipeSummary> summaries;
  for (const RecipeRun& run : runs)
    if (std::none_of(summaries.begin(), summaries.end(),
                     [&](const RecipeSummary& one) { return one.recipe == run.recipe; }))
      summaries.push_back(summary_of(run.recipe, runs, tokens_per_step));
  return summaries;
}

std::string table_of(const std::vector<RecipeSummary>& summaries) {
  const RecipeSummary& reference = summaries.front();
  std::string table =
      fmt::format("{:<18} {:>8} {:>8} {:>8} {:>9} {:>7} {:>9} {:>10} {:>8}\n", "recipe", "loss",
                  "spread", "change", "step", "time", "tok/s", "memory", "skipped");
  for (const RecipeSummary& one : summaries) {
    table += fmt::format(
        "{:<18} {:>8.4f} {:>8.4f} {:>+7.2f}% {:>6.0f} ms {:>6.2f}x {:>9} {:>10} {:>8}\n",
        one.recipe, one.loss, one.loss_spread, 100 * (one.loss / reference.loss - 1), one.step_ms,
        one.step_ms / reference.step_ms, short_count(one.tokens_per_s),
        format_bytes(one.peak_bytes), one.skipped_steps);
    if (!one.failure.empty()) table += fmt::format("  {}\n", one.failure);
  }
  return table;
}

nlohmann::ordered_json number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

std::string json_of(const std::vector<RecipeRun>& runs, const TrainConfig& config) {
  nlohmann::ordered_json document = {{"preset", config.preset},
                                     {"batch_size", config.batch_size},
                                     {"seq_len", config.seq_len},
                                     {"max_steps", config.max_steps.value_or(0)},
                                     {"threads", torch::get_num_threads()},
                                     {"runs", nlohmann::ordered_json::array()}};
  for (const RecipeRun& run : runs)
    document["runs"].push_back({{"recipe", run.recipe},
                                {"seed", run.seed},
                                {"steps", run.steps},
                                {"skipped_steps", run.skipped_steps},
                                {"first_loss", number(run.first_loss)},
                                {"last_loss", number(run.last_loss)},
                                {"step_ms", run.step_ms},
                                {"peak_bytes", run.peak_bytes},
                                {"failure", run.failure}});
  return document.dump(2) + "\n";
}

TrainConfig bench_config(const ConfigArguments& flags) {
  const std::vector<ConfigAssignment> given = flags.assignments();
  for (const char* key :
       {"precision", "layer_precision", "rounding", "seed", "max_epochs", "max_time"})
    if (was_given(given, key))
      throw UserError(fmt::format(
          "bench: {} is not for this command: it trains the recipes of --recipes with the seeds of "
          "--seeds for --max-steps each",
          flag_of(key)));
  for (const char* key :
       {"out", "overwrite", "save_every", "keep_checkpoints", "watch", "tensorboard"})
    if (was_given(given, key))
      throw UserError(
          fmt::format("bench: {} is not for this command: it writes nothing", flag_of(key)));
  for (const char* key : {"val_data", "val_split", "val_every", "early_stop"})
    if (was_given(given, key))
      throw UserError(fmt::format(
          "bench: {} is not for this command: it compares the losses of training", flag_of(key)));
  if (was_given(given, "memory_budget"))
    throw UserError(
        "bench: --memory-budget is not for this command: it measures what recipes take, and "
        "'halftone plan' predicts it");
  TrainConfig config = resolve_config(given);
  require_data(config, "train on");
  constexpr std::int64_t kSteps = 100;
  if (!config.max_steps) config.max_steps = kSteps;
  config.memory_budget = "unlimited";  // it says nothing of the recipes that are trained
  return config;
}

void run_bench(const BenchArguments& arguments, const ConfigArguments& flags) {
  const TrainConfig config = bench_config(flags);
  std::vector<BenchVariant> recipes;
  for (const std::string& name : arguments.recipes.empty() ? recipe_names() : arguments.recipes)
    recipes.push_back(parse_recipe(name));
  const std::vector<std::int64_t> seeds =
      arguments.seeds.empty() ? std::vector<std::int64_t>{config.seed} : arguments.seeds;
  for (const std::int64_t seed : seeds)
    if (seed < 0)
      throw UserError(
          fmt::format("bench: --seeds: expected integers that are 0 or more, got {}", seed));
  TrainingProgress progress(config.log_every);
  const InterruptGuard guard;
  const PretrainInputs inputs = prepare_pretraining(
      config, std::nullopt,
      [&](const std::string& stage, double share) { progress.preparation(stage, share); });
  ShareProgress bar("");
  const std::size_t total = recipes.size() * seeds.size();
  std::size_t begun = 0;
  const RecipeOptions watchers{
      .callbacks = {std::make_shared<BenchProgress>(bar)},
      .on_start = [&](const std::string& recipe, std::int64_t seed) {
        bar.clear();
        say(fmt::format("{}/{}  {}, seed {}\n", ++begun, total, recipe, seed));
      }};
  const std::vector<RecipeRun> runs = compare_recipes(config, inputs, recipes, seeds, watchers);
  bar.clear();
  if (interrupted()) throw Exit{interrupted_exit_code()};
  const double tokens_per_step =
      static_cast<double>(config.batch_size * config.seq_len * config.accumulate);
  print(arguments.json ? json_of(runs, config) : table_of(summaries_of(runs, tokens_per_step)));
}

}  // namespace

void add_bench_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "bench", "Train in every precision on the same data: loss, time, memory side by side");
  auto arguments = std::make_shared<BenchArguments>();
  command
      ->add_option("--recipes", arguments->recipes,
                   fmt::format("Which, the reference first [{}]", fmt::join(recipe_names(), ",")))
      ->delimiter(',')
      ->type_name("NAMES");
  command->add_option("--seeds", arguments->seeds, "One run of each recipe with each [42]")
      ->delimiter(',')
      ->type_name("NUMBERS");
  command->add_flag("--json", arguments->json, "One JSON document on stdout");
  auto flags = std::make_shared<ConfigArguments>(*command);
  command->footer(
      "Examples:\n"
      "  halftone bench --preset tiny --data poems.txt --max-steps 200\n"
      "  halftone bench --preset minimind-26m --data poems.txt --seeds 1,2,3 --recipes "
      "32-true,bf16-mixed\n"
      "\n"
      "Nothing is written. `loss` is the mean over the last tenth of the steps and over the seeds, "
      "`change` and\n`time` are against the first recipe; `memory` is what the process held at its "
      "peak.");
  command->callback([arguments, flags] { run_bench(*arguments, *flags); });
}

}  // namespace halftone::cli
