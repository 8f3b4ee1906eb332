// SPDX-License-Identifier: Apache-2.0
#include "cli/step_arguments.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <filesystem>
#include <system_error>

#include "halftone/core/error.h"
#include "halftone/pretrain/config_file.h"
#include "halftone/pretrain/config_precision.h"

namespace halftone::cli {
namespace {

bool is_config_file(const std::string& source) {
  std::error_code ignored;
  return source.ends_with(".toml") && !std::filesystem::is_directory(source, ignored);
}

UserError not_a_source(const std::string& word) {
  const std::vector<std::string> presets = preset_names();
  if (std::find(presets.begin(), presets.end(), word) != presets.end())
    return UserError(fmt::format("'{0}' was not expected: a preset goes with --preset {0}", word));
  return UserError(fmt::format(
      "'{}' was not expected: RUN is the folder of a run, a configuration file ends in .toml, data "
      "goes with --data",
      word));
}

// What a run says itself: ignoring a flag in silence would mislead.
void check_flags_beside_run(const std::string& run, const std::vector<ConfigAssignment>& flags) {
  constexpr std::array kOfNewRuns = {"preset",    "tokenizer", "tokenizer_vocab_size",
                                     "init_from", "out",       "overwrite"};
  for (const ConfigAssignment& one : flags)
    if (one.key.starts_with("model.") ||
        std::find(kOfNewRuns.begin(), kOfNewRuns.end(), one.key) != kOfNewRuns.end())
      throw UserError(
          fmt::format("{} is for a new run, but RUN is '{}'; leave out one", one.place, run));
}

/// The assignments that take back what the file or the run says of its own precision and what does
/// not go with that of --precision.
std::vector<ConfigAssignment> taken_back(const std::vector<ConfigAssignment>& flags) {
  std::vector<ConfigAssignment> result;
  const auto precision = std::find_if(flags.begin(), flags.end(),
                                      [](const auto& one) { return one.key == "precision"; });
  // What is not chosen yet takes nothing back: the command says what it wants instead.
  if (precision == flags.end() || precision->value == ConfigValue(std::string(kAutoPrecision)))
    return result;
  for (const std::string& key : keys_given_up_for(std::get<std::string>(precision->value)))
    if (!was_given(flags, key))
      result.push_back(
          {key, config_field(key, precision->place).get(TrainConfig()), precision->place});
  return result;
}

}  // namespace

StepArguments::StepArguments(CLI::App& command) : flags_(command, {}) {
  command
      .add_option("RUN|CONFIG.toml", source_,
                  "Folder of a run, or configuration file; flags win over both")
      ->type_name("");
  command
      .add_option("--step", step_,
                  "The step after the run's checkpoint of this step (default: the newest)")
      ->type_name("N");
}

std::string StepArguments::run() const { return is_config_file(source_) ? "" : source_; }

std::vector<ConfigAssignment> StepArguments::given() const {
  std::vector<ConfigAssignment> result;
  if (is_config_file(source_)) result = read_config_file(source_);
  const std::vector<ConfigAssignment> flags = flags_.assignments();
  result.insert(result.end(), flags.begin(), flags.end());
  return result;
}

TrainConfig StepArguments::config() const {
  const std::vector<ConfigAssignment> flags = flags_.assignments();
  std::vector<ConfigAssignment> all = given();
  const std::vector<ConfigAssignment> left_out = taken_back(flags);
  all.insert(all.end(), left_out.begin(), left_out.end());
  if (run().empty()) {
    if (step_)
      throw UserError("--step: expected RUN, the folder of a run with that checkpoint, got none");
    return resolve_config(all);
  }
  std::error_code ignored;
  if (!std::filesystem::is_directory(run(), ignored)) throw not_a_source(run());
  check_flags_beside_run(run(), flags);
  return changed_run_config(run(), all);
}

std::unique_ptr<LoadedStep> StepArguments::load(const TrainConfig& config,
                                                const PreparationProgress& progress) const {
  require_data(config, "compute a step on");
  if (run().empty()) return std::make_unique<LoadedStep>(config, progress);
  return std::make_unique<LoadedStep>(run(), config, step_, progress);
}

std::string StepArguments::title(const LoadedStep& loaded) const {
  if (!run().empty()) return fmt::format("{}, step {}", run(), loaded.optimizer_step());
  return fmt::format("{}, first step", source_.empty() ? loaded.config().preset : source_);
}

}  // namespace halftone::cli
