// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

#include "halftone/train/anomaly.h"
#include "halftone/train/manual_optimization.h"
#include "halftone/train/mixed_precision.h"
#include "halftone/train/step_replay.h"
#include "halftone/train/training_task.h"

namespace halftone {

/// While it lives, the module may step its optimizers; null: it has none of its own.
class ManualScope {
 public:
  ManualScope(TrainingModuleBase& module, ManualOptimization* manual) : module_(module) {
    module_.set_manual_optimization(manual);
  }
  ~ManualScope() { module_.set_manual_optimization(nullptr); }
  ManualScope(const ManualScope&) = delete;
  ManualScope& operator=(const ManualScope&) = delete;

 private:
  TrainingModuleBase& module_;
};

/// Finds where the inf or nan of a step came from, with the weights that the network has now.
class StepSearch {
 public:
  /// All of them must outlive it. `task` holds the group of the step.
  StepSearch(TrainingTask& task, MixedPrecision& precision, ManualOptimization* manual)
      : task_(task), precision_(precision), manual_(manual) {}

  /// Computes the micro-batches of `step` once more, those with a bad loss first, each as it was
  /// computed then. Sets the anomaly's origin, place, note and remedy.
  void explain(const StepReplay& step, Anomaly& anomaly) const;

 private:
  torch::nn::Module& network() const { return task_.module().network(); }
  std::optional<NonFiniteOrigin> replayed(const StepReplay& step, std::size_t micro_batch) const;

  TrainingTask& task_;
  MixedPrecision& precision_;
  ManualOptimization* manual_;
};

}  // namespace halftone
