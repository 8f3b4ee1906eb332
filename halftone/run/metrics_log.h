// SPDX-License-Identifier: Apache-2.0
// RUN/metrics.jsonl: one JSON object per line and optimizer step, keys as in StepMetrics with
// those of `logged` after the loss, plus lines {"step", "val_loss", ...} of what a validation or
// the end of an epoch has logged after that step. A number that does not
// apply or is not finite is null.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "halftone/run/step_metrics.h"
#include "halftone/system/file.h"

namespace halftone {

/// Appends to a metrics file. Each line reaches the system with one write before append() returns,
/// so that a killed process loses at most the line it was writing.
class MetricsLog {
 public:
  /// Opens `path`, after cutting off lines of steps beyond `last_step` and a torn last line. A new
  /// run passes 0. Throws UserError when the file can't be written.
  MetricsLog(const std::filesystem::path& path, std::int64_t last_step);
  /// Throws SystemError when the disk is full.
  void append(const StepMetrics& metrics);
  /// What was logged after step `step` and belongs to no step's line; a name `step` or `loss` is
  /// left out with a warning.
  void append_values(std::int64_t step, const std::map<std::string, double>& values);
  /// Waits until the lines are on the disk; append() does not.
  void sync() const { file_.sync(); }

 private:
  void write_line(const std::string& line);

  File file_;
};

}  // namespace halftone
