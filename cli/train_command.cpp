// SPDX-License-Identifier: Apache-2.0
#include "cli/train_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "cli/arguments.h"
#include "cli/program.h"
#include "cli/progress.h"
#include "halftone/core/error.h"
#include "halftone/core/message.h"
#include "halftone/core/text.h"
#include "halftone/dist/process_place.h"
#include "halftone/pretrain/pretrain.h"
#include "halftone/run/checkpoint.h"
#include "halftone/run/run_directory.h"
#include "halftone/system/interrupt.h"

namespace halftone::cli {
namespace {

constexpr const char* kAuto = "auto";

void report_end(const PretrainResult& result, const std::string& run) {
  if (result.last_loss)
    say(fmt::format(
        "loss {:.3f} -> {:.3f} in {} steps, {} tokens, {}{}\n", *result.first_loss,
        *result.last_loss, result.steps, result.tokens, format_seconds(result.seconds),
        result.skipped_steps > 0 ? fmt::format(", {} steps skipped", result.skipped_steps) : ""));
  if (result.best)
    say(fmt::format("best       val_loss {:.4f} at step {}, in {}\n", result.best->loss,
                    result.best->step, RunPaths{run}.best().string()));
  std::error_code ignored;
  if (const auto report = RunPaths{run}.report(); std::filesystem::is_regular_file(report, ignored))
    say(fmt::format("report     {}\n", report.string()));
  if (result.stopped)
    say(fmt::format("stopped and saved; go on with: halftone train --resume {}\n",
                    shell_quoted(run)));
}

using Callbacks = std::vector<std::shared_ptr<Callback>>;
using Pretrain = PretrainResult (*)(const TrainConfig& config, const PretrainOptions& options);

/// What is to be trained, and how it begins.
struct Beginning {
  TrainConfig config;
  Pretrain train;
};

Beginning go_on_with(const std::string& run, const std::vector<ConfigAssignment>& given) {
  TrainConfig config = resume_config(run, given);
  if (checkpoint_steps(run).empty())
    throw UserError(fmt::format(
        "--resume: '{}' has no checkpoint: the run ended before its first one; start it "
        "again with the flags that it was started with and --resume auto or --overwrite",
        run));
  return {std::move(config), resume_pretraining};
}

/// One command for a job that is restarted: the run in --out goes on, or begins.
Beginning go_on_or_start(const ConfigArguments& arguments) {
  const std::vector<ConfigAssignment> given = arguments.assignments();
  if (!was_given(given, "out"))
    throw UserError("--resume auto: expected --out with the folder of the run, got none");
  TrainConfig config = resolve_config(given);
  if (config.overwrite)
    throw UserError(
        "--resume auto goes on with the run that is there and --overwrite replaces it; give one of "
        "them");
  if (checkpoint_steps(config.out).empty()) return {std::move(config), restart_pretraining};
  return go_on_with(config.out, given);
}

Beginning beginning_of(const ConfigArguments& arguments, const std::optional<std::string>& resume) {
  if (!resume) return {arguments.resolve(), pretrain};
  if (resume->empty()) throw UserError("--resume: expected a run directory, got an empty text");
  return *resume == kAuto ? go_on_or_start(arguments)
                          : go_on_with(*resume, arguments.assignments());
}

// With the flags for what the error advises.
UserError with_flags(const ExistingRunError& error, const std::string& run) {
  return UserError(fmt::format("{} (--resume {}, --overwrite, --out)", error.what(),
                               error.has_checkpoint() ? shell_quoted(run) : kAuto));
}

void run_train(const ConfigArguments& arguments, const std::optional<std::string>& resume) {
  const auto [config, train] = beginning_of(arguments, resume);
  require_data(config, "train on");
  const bool speaks = find_process_place().rank == 0;  // of several processes, one
  const auto progress = std::make_shared<TrainingProgress>(config.log_every);
  const InterruptGuard guard;
  const PretrainOptions options{
      .callbacks = speaks ? Callbacks{progress} : Callbacks{},
      .on_preparation =
          [&](const std::string& stage, double share) {
            progress->preparation(stage, share);
            if (!interrupted()) return;
            progress->finish();
            say(fmt::format("stopped before the first step; nothing has changed\n"));
            throw Exit{interrupted_exit_code()};
          },
      .on_start = [&](const RunSummary& plan) { progress->start(plan); }};
  const PretrainResult result = [&] {
    try {
      return train(config, options);
    } catch (const ExistingRunError& error) {
      throw with_flags(error, config.out);
    }
  }();
  if (speaks) report_end(result, config.out);
  if (result.stopped) throw Exit{interrupted_exit_code()};
  if (speaks) print(config.out + "\n");
}

CLI::Option* add_resume(CLI::App& command, std::optional<std::string>& resume) {
  return command
      .add_option(
          "--resume", resume,
          "Go on with this run, bit by bit as if it had never stopped; auto: with the run in "
          "--out if it has a checkpoint, else start it")
      ->type_name("RUN|auto");
}

}  // namespace

void add_train_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("train", "Train a model on text");
  auto resume = std::make_shared<std::optional<std::string>>();
  add_resume(*command, *resume);
  auto arguments = std::make_shared<ConfigArguments>(*command);
  command->footer(
      "Examples:\n"
      "  halftone train --preset tiny --data poems.txt --max-time 3m --out runs/poems\n"
      "  halftone train small.toml --precision 16-mixed --max-steps 1000\n"
      "  halftone train --resume runs/poems --max-time 10m\n"
      "  halftone train small.toml --out runs/small --resume auto    # for a job that is "
      "restarted\n"
      "\n"
      "Every flag is also a key of CONFIG.toml (--batch-size 8 is batch_size = 8); flags win.\n"
      "Ctrl-C finishes the step, saves and exits with 130, closing the terminal with 129.\n"
      "The last line on stdout is the run's folder.");
  command->callback([arguments, resume] { run_train(*arguments, *resume); });
}

std::vector<std::string> words_to_go_on(std::vector<std::string> words) {
  CLI::App command;
  std::optional<std::string> resume;
  add_resume(command, resume);
  const ConfigArguments arguments(command);
  std::vector<std::string> args = normalized({words.begin() + 1, words.end()});
  std::reverse(args.begin(), args.end());  // as CLI11 wants them
  try {
    command.parse(std::move(args));
  } catch (const CLI::ParseError&) {
    return words;  // train itself says what is wrong
  }
  if (resume) return words;
  const std::vector<ConfigAssignment> given = arguments.assignments();
  const TrainConfig config = resolve_config(given);
  if (config.overwrite)
    throw UserError(
        "--restarts goes on with the run that is there and --overwrite replaces it; give one of "
        "them");
  if (!was_given(given, "out")) words.insert(words.end(), {"--out", config.out});
  words.insert(words.end(), {"--resume", kAuto});
  return words;
}

}  // namespace halftone::cli
