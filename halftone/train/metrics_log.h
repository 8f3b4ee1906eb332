// SPDX-License-Identifier: Apache-2.0
// RUN/metrics.jsonl: one JSON object per line and optimizer step, keys as in StepMetrics, plus
// lines
// {"step", "val_loss"}. A number that does not apply or is not finite is null.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "halftone/core/file.h"

namespace halftone {

struct StepMetrics {
  std::int64_t step = 0;   // from 1; skipped steps count
  std::int64_t epoch = 0;  // from 1
  double loss = 0;         // mean over the step's micro-batches, auxiliary loss included, unscaled
  std::optional<double> aux_loss;
  double lr = 0;
  std::optional<double> grad_norm;  // before clipping, without the scale
  std::optional<double> scale;      // loss scale that this step used
  bool skipped = false;
  std::vector<std::string> overflow;  // tensors with gradients that are not finite
  std::optional<double> underflow_share;
  std::int64_t tokens = 0;        // of this step, over all processes
  std::int64_t tokens_total = 0;  // since the run began
  double tokens_per_s = 0;
  double step_ms = 0;
  std::optional<double> rss_mib;
  std::optional<double> cuda_mib;
};

/// Appends to a metrics file. Each line reaches the system with one write before append() returns,
/// so that a killed process loses at most the line it was writing.
class MetricsLog {
 public:
  /// Opens `path`, after cutting off lines of steps beyond `last_step` and a torn last line. A new
  /// run passes 0. Throws UserError when the file can't be written.
  MetricsLog(const std::filesystem::path& path, std::int64_t last_step);
  /// Throws SystemError when the disk is full.
  void append(const StepMetrics& metrics);
  void append_validation(std::int64_t step, double val_loss);

 private:
  void write_line(const std::string& line);

  File file_;
};

}  // namespace halftone
