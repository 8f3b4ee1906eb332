// SPDX-License-Identifier: Apache-2.0
// What compare, profile and tune look at: one training step of a run or of a configuration.
//
//   auto step_arguments = std::make_shared<StepArguments>(*command);  // [RUN|CONFIG.toml], --step,
//                                                                     // and every flag of train
//   command->callback([step_arguments] {
//     const TrainConfig config = step_arguments->config();    // checked; UserError
//     StageProgress progress;                                 // cli/progress.h
//     const auto loaded = step_arguments->load(config, [&](const std::string& stage, double share)
//     {
//       progress.show(stage, share);                          // reads data, tokenizer, weights
//     });
//     progress.clear();                                       // before anything is printed
//     use(loaded->step(), loaded->module(), step_arguments->title(*loaded));
//   });
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/arguments.h"
#include "halftone/pretrain/loaded_step.h"

namespace halftone::cli {

/// [RUN|CONFIG.toml], --step and the flags of train, on one command. Must live until the command
/// has run (commands keep it in a shared_ptr that their callback holds).
class StepArguments {
 public:
  explicit StepArguments(CLI::App& command);
  StepArguments(const StepArguments&) = delete;
  StepArguments& operator=(const StepArguments&) = delete;

  /// What was given: the assignments of CONFIG.toml, if there is one, then those of the flags. A
  /// run's own configuration is not among them. Throws UserError.
  std::vector<ConfigAssignment> given() const;
  /// Whether the flag of `key` was given, as opposed to a line of CONFIG.toml. Throws UserError.
  bool has_flag(std::string_view key) const { return was_given(flags_.assignments(), key); }
  /// The folder of the run; empty: the step is the first one of a new run.
  std::string run() const;

  /// Defaults, preset, the file or the run's configuration, flags. Of a run with another
  /// --precision, the run's loss_scale and keep_fp32 stay where they go with it, its
  /// layer_precision does not. Throws UserError, also for flags that say what the run says itself
  /// (--preset, --model.*, --tokenizer,
  /// --init-from, --out).
  TrainConfig config() const;

  /// The step of `config`, which is config(), perhaps changed: of a run the one after the
  /// checkpoint of --step (the newest, if not given), else the first. Throws UserError.
  std::unique_ptr<LoadedStep> load(const TrainConfig& config,
                                   const PreparationProgress& progress = {}) const;

  /// "runs/poems, step 400"; of a new run "small.toml, first step" or "tiny, first step".
  std::string title(const LoadedStep& loaded) const;

 private:
  std::string source_;                // RUN or CONFIG.toml; empty: flags alone
  std::optional<std::int64_t> step_;  // --step
  ConfigArguments flags_;
};

}  // namespace halftone::cli
