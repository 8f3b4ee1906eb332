// SPDX-License-Identifier: Apache-2.0
#include "cli/tune_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <limits>
#include <memory>
#include <optional>
#include <string>

#include "cli/program.h"
#include "cli/progress.h"
#include "cli/step_arguments.h"
#include "cli/tune_text.h"
#include "halftone/core/error.h"
#include "halftone/core/message.h"
#include "halftone/core/stopwatch.h"
#include "halftone/pretrain/config_file.h"
#include "halftone/pretrain/tuned_run.h"
#include "halftone/system/atomic_file.h"
#include "halftone/system/interrupt.h"

namespace halftone::cli {
namespace {

constexpr double kSeconds = 60;
constexpr std::size_t kShownLayers = 12;
constexpr const char* kMaxTime = "max_time";

struct TuneArguments {
  std::optional<double> error;
  double loss_increase = TunedRunOptions{}.loss_increase;
  std::string out_config;
  bool all = false;
  bool json = false;
};

void check(const TuneArguments& arguments) {
  if (arguments.error && !(*arguments.error > 0))
    throw UserError(fmt::format("--error: expected a positive number, got {}", *arguments.error));
  if (!(arguments.loss_increase > 0))
    throw UserError(fmt::format("--loss-increase: expected a positive number, got {}",
                                arguments.loss_increase));
  check_output_file("--out-config", arguments.out_config);
  if (!arguments.out_config.empty() && !arguments.out_config.ends_with(".toml"))
    throw UserError(fmt::format("--out-config: expected a file that ends in .toml, got '{}'",
                                arguments.out_config));
}

/// The configuration to tune. Its max_time is that of the file or of the run: the flag is tune's.
TrainConfig config_of(const StepArguments& step) {
  TrainConfig config = step.config();
  if (!step.has_flag(kMaxTime)) return config;
  config.max_time.reset();
  if (!step.run().empty()) config.max_time = changed_run_config(step.run(), {}).max_time;
  for (const ConfigAssignment& one : step.given())
    if (one.key == kMaxTime && one.place != flag_of(kMaxTime))
      config.max_time = std::get<double>(one.value);
  return config;
}

double seconds_for(const StepArguments& step) {
  return step.has_flag(kMaxTime) ? step.config().max_time.value_or(kSeconds) : kSeconds;
}

void write_config(const TunedRun& tuned, const StepArguments& step, const std::string& path) {
  TrainConfig config = tuned.config;
  if (!step.run().empty()) config.out.clear();  // of another run than the one that is there
  write_file_atomically(path, config_to_toml(config));
}

void run_tune(const TuneArguments& arguments, const StepArguments& step) {
  check(arguments);
  const Stopwatch watch;
  const TrainConfig config = config_of(step);
  if (config.precision == kAutoPrecision)
    throw UserError(
        "tune: expected the precision whose layers are lowered, got auto; name one that ends in "
        "-mixed, such as bf16-mixed");
  const InterruptGuard guard;
  StageProgress progress;
  const auto show = [&](const std::string& stage, double share) {
    progress.show(stage, share);
    if (!interrupted()) return;
    progress.clear();
    throw Exit{interrupted_exit_code()};
  };
  const std::unique_ptr<LoadedStep> loaded = step.load(config, show);
  const double used = watch.seconds();
  const TunedRun tuned = tune_run(*loaded, {.run = step.run(), .step = loaded->optimizer_step()},
                                  {.error = arguments.error,
                                   .loss_increase = arguments.loss_increase,
                                   .max_seconds = seconds_for(step),
                                   .used_seconds = used,
                                   .progress = show});
  progress.clear();
  if (!arguments.out_config.empty()) write_config(tuned, step, arguments.out_config);
  const std::string title = step.title(*loaded);
  if (arguments.json) return print(tuned_run_json(tuned, title));
  const std::size_t rows = arguments.all ? std::numeric_limits<std::size_t>::max() : kShownLayers;
  print(tuned_run_text(tuned, title, rows));
  if (!arguments.out_config.empty())
    print(fmt::format("\nhalftone train {}\n", shell_quoted(arguments.out_config)));
}

}  // namespace

void add_tune_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "tune", "Choose the precision of each layer: the fastest within an error bound, measured");
  auto arguments = std::make_shared<TuneArguments>();
  command
      ->add_option("--error", arguments->error,
                   "Largest relative error of the gradients against 32-true (default: a tenth of "
                   "what the choice of the batch makes)")
      ->type_name("X");
  command
      ->add_option("--loss-increase", arguments->loss_increase,
                   fmt::format("Largest increase of the loss, also of a short validation [{}]",
                               arguments->loss_increase))
      ->type_name("X");
  command
      ->add_option("--out-config", arguments->out_config,
                   "Write a configuration that 'halftone train' takes")
      ->type_name("FILE.toml");
  command->add_flag("--all", arguments->all, "All layers in the table");
  command->add_flag("--json", arguments->json, "One JSON document on stdout");
  auto step = std::make_shared<StepArguments>(*command);
  command->footer(
      "Examples:\n"
      "  halftone tune --preset minimind-26m --data poems.txt --out-config tuned.toml\n"
      "  halftone tune runs/poems --loss-increase 0.002\n"
      "  halftone tune small.toml --error 0.02 --json\n"
      "\n"
      "Lowers the layers of --precision (a mixed one) to what is faster on this machine. Takes 60 "
      "seconds, or\n--max-time. --error and --loss-increase bound what is lost.");
  command->callback([arguments, step] { run_tune(*arguments, *step); });
}

}  // namespace halftone::cli
