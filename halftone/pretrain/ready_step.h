// SPDX-License-Identifier: Apache-2.0
// The training step of a configuration with its precision, optimizer and clipping: what profile
// takes again and again. Nothing is written.
#pragma once

#include <memory>

#include "halftone/diagnostics/profile/repeated_step.h"
#include "halftone/pretrain/loaded_step.h"

namespace halftone {

/// `config` with the micro-batches of a step joined to one, where its memory recipe releases
/// gradients, as training joins them.
TrainConfig with_joined_micro_batches(TrainConfig config);

/// Predicted tokens of an optimizer step of full rows.
double tokens_per_step(const TrainConfig& config);

class ReadyStep {
 public:
  /// Converts the module of `loaded`, which must outlive it. Its configuration is
  /// with_joined_micro_batches(), its precision a named one. Throws UserError.
  explicit ReadyStep(LoadedStep& loaded);
  /// The first step of a new run of `config` on the data of `inputs`. Throws UserError.
  ReadyStep(TrainConfig config, PretrainInputs inputs);
  ReadyStep(const ReadyStep&) = delete;
  ReadyStep& operator=(const ReadyStep&) = delete;

  RepeatedStep& step() { return *repeated_; }

 private:
  void prepare(LoadedStep& loaded);

  std::unique_ptr<LoadedStep> own_;  // of a configuration that was not loaded
  std::unique_ptr<MixedPrecision> precision_;
  std::unique_ptr<RepeatedStep> repeated_;
};

}  // namespace halftone
