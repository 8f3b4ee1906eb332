// SPDX-License-Identifier: Apache-2.0
// From a configuration to a trained model in a run directory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "halftone/pretrain/pretrain_inputs.h"
#include "halftone/pretrain/train_config.h"
#include "halftone/train/callback.h"

namespace halftone {

/// The run that is about to be trained.
struct RunSummary {
  std::filesystem::path run;
  std::int64_t parameters = 0;
  std::int64_t trained_parameters = 0;  // of them; all, unless adapters are trained beside them
  std::int64_t vocab_size = 0;
  std::int64_t training_tokens = 0;  // of one epoch
  std::int64_t batches_per_epoch = 0;
  std::optional<std::int64_t> total_steps;  // nothing when only time limits the run
  std::int64_t first_step = 1;              // above 1 when resumed
  std::string precision;
  std::string device;
  std::int64_t threads = 0;
  std::string matmul_paths;            // how 16-bit matrices are multiplied; empty for 32-true
  std::int64_t validation_tokens = 0;  // 0: nothing is validated
  std::optional<std::int64_t> validation_every;  // steps; nothing: only the last has one
};

/// Who watches a run. All are called from the training thread.
struct PretrainOptions {
  /// Of the Trainer, beside those that save and that draw the report.
  std::vector<std::shared_ptr<Callback>> callbacks;
  PreparationProgress on_preparation;                    // while the data is read; may be empty
  std::function<void(const RunSummary& plan)> on_start;  // before on_fit_start; may be empty
};

/// The lowest loss of a run's validations.
struct BestValidation {
  std::int64_t step = 0;
  double loss = 0;
};

struct PretrainResult {
  bool stopped = false;                // by a signal or a callback, before the run's end
  bool ended_early = false;            // instead: by early_stop
  std::optional<BestValidation> best;  // whose checkpoint stands in RUN/best
  std::int64_t steps = 0;
  std::int64_t tokens = 0;
  double seconds = 0;                // of training, over all parts of a resumed run
  std::optional<double> first_loss;  // of this part of the run
  std::optional<double> last_loss;
  std::int64_t skipped_steps = 0;
};

/// Starts a new run. Everything that can be wrong with the configuration or the data is found
/// before the run directory is made. Throws UserError and SystemError.
PretrainResult pretrain(const TrainConfig& config, const PretrainOptions& options = {});

/// The same where a run may have begun in `config.out` that has no checkpoint yet: it is started
/// again. One that has a checkpoint by now, from a process that was still ending, is gone on with.
PretrainResult restart_pretraining(const TrainConfig& config, const PretrainOptions& options = {});

/// Goes on with the run in `config.out` from its newest checkpoint, bit by bit as if it had never
/// stopped (at the same number of threads, on the same machine).
PretrainResult resume_pretraining(const TrainConfig& config, const PretrainOptions& options = {});

}  // namespace halftone
