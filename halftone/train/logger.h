// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "halftone/core/state_dict.h"
#include "halftone/run/step_metrics.h"

namespace halftone {

/// A sink for what a training logs, beside metrics.jsonl. It is called from the training thread,
/// with steps that never fall between two calls of open().
class Logger {
 public:
  virtual ~Logger() = default;

  /// Before the first line. `folder` is the run directory; `last_step` is 0, or the step that a
  /// resumed run goes on from: what was written of later steps is void. Throws UserError when the
  /// sink can't be written.
  virtual void open(const std::filesystem::path& folder, std::int64_t last_step) = 0;
  virtual void log_metrics(std::int64_t step, const std::map<std::string, double>& values) = 0;
  /// The values of a StateDict, not its tensors.
  virtual void log_hyper_parameters(const StateDict& /*values*/) {}
  virtual void log_text(std::int64_t /*step*/, const std::string& /*name*/,
                        const std::string& /*text*/) {}
  /// How the elements of `values` are distributed: any shape, dtype and device.
  virtual void log_histogram(std::int64_t /*step*/, const std::string& /*name*/,
                             const torch::Tensor& /*values*/) {}
  /// Waits until all is on the disk: before a checkpoint.
  virtual void sync() {}
  virtual void close() {}
};

/// The numbers of a step by their keys in metrics.jsonl: `skipped` is 0 or 1, numbers that the step
/// does not have are left out, those that are not finite are kept. A logged value with the key of
/// another number yields to it, as in metrics.jsonl, which warns of it.
std::map<std::string, double> metric_values(const StepMetrics& metrics);

}  // namespace halftone
