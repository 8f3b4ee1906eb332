// SPDX-License-Identifier: Apache-2.0
// The precision of each layer for a run or a configuration: what the command tune does.
#pragma once

#include <optional>
#include <string>

#include "halftone/diagnostics/tune/tune.h"
#include "halftone/pretrain/loaded_step.h"
#include "halftone/pretrain/paired_training.h"

namespace halftone {

struct TunedRunOptions {
  std::optional<double> error;   // TuneOptions::error
  double loss_increase = 0.005;  // also of the validation loss
  double max_seconds = 60;       // for all of it, from `used_seconds` on
  double used_seconds = 0;       // that reading the data has taken
  PreparationProgress progress;  // between measurements; may be empty
};

/// What tune has found.
struct TunedRun {
  TuneResult tuning;
  /// A short training of the choice beside the reference; no steps where the choice is the
  /// reference, there was no time, or the run's limits are reached: `no_validation` says it.
  PairedTraining validation;
  std::string no_validation;
  bool holds = true;   // the validation loss is within the bound
  TrainConfig config;  // that trains with the choice: the one given where it does not hold
  double seconds = 0;  // that all took, reading the data included
};

/// Tunes the layers of `loaded`, of which `start` says whether it is of a run. The precision must
/// be a mixed one; formats that its configuration gives to layers are left aside. Modules that
/// keep_fp32 names stay so. Throws UserError.
TunedRun tune_run(LoadedStep& loaded, const TrainingStart& start, const TunedRunOptions& options);

}  // namespace halftone
