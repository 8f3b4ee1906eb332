// SPDX-License-Identifier: Apache-2.0
// One training step of a run or a configuration, ready to be computed: what compare, profile and
// tune look at.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "halftone/pretrain/config_schema.h"
#include "halftone/pretrain/language_modeling.h"
#include "halftone/pretrain/pretrain_inputs.h"
#include "halftone/train/step_replay.h"
#include "halftone/train/training_task.h"

namespace halftone {

/// The configuration of an existing run with other values for some keys, as the same run would be
/// started with them. Throws UserError.
TrainConfig changed_run_config(const std::string& run,
                               const std::vector<ConfigAssignment>& changes);

class LoadedStep {
 public:
  /// The first micro-batch of a new run of `config`, with fresh weights or those of `init_from`.
  /// Throws UserError as prepare_pretraining().
  explicit LoadedStep(const TrainConfig& config, const PreparationProgress& progress = {});
  /// The same on data that is there already.
  LoadedStep(const TrainConfig& config, PretrainInputs inputs);
  /// The first one that the run in folder `run` takes after its checkpoint of `checkpoint_step`
  /// (the newest, if not given), with the weights of then. `config`: changed_run_config(); where
  /// batch_size, seq_len, pack, shuffle, seed or data are not the run's, the data begins anew.
  LoadedStep(const std::string& run, const TrainConfig& config,
             std::optional<std::int64_t> checkpoint_step, const PreparationProgress& progress = {});
  LoadedStep(const LoadedStep&) = delete;
  LoadedStep& operator=(const LoadedStep&) = delete;

  /// In fp32, on the CPU, until a MixedPrecision converts it.
  const TrainingStep& step() const { return step_; }
  LanguageModeling& module() { return module_; }
  const TrainConfig& config() const { return config_; }
  const PretrainInputs& inputs() const { return inputs_; }
  const TokenLoader& loader() const { return loader_; }
  /// Of the checkpoint; 0 for a new run.
  std::int64_t optimizer_step() const { return optimizer_step_; }
  /// That its batch gives to a matmul.
  std::int64_t rows() const { return task_.rows_per_batch(); }

 private:
  TrainConfig config_;
  PretrainInputs inputs_;
  LanguageModeling module_;
  TokenLoader loader_;
  ModuleTrainingTask<LanguageModeling, TokenLoader> task_;
  std::int64_t optimizer_step_ = 0;
  TrainingStep step_;
};

}  // namespace halftone
