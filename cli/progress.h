// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "halftone/train/pretrain.h"

namespace halftone::cli {

/// What a person watches while a model trains, on stderr: one line that redraws itself on a
/// terminal, a plain line every `log_every` steps otherwise.
class TrainingProgress {
 public:
  explicit TrainingProgress(std::int64_t log_every);

  void preparation(const std::string& stage, double share);
  void start(const PretrainPlan& plan);
  void step(const StepMetrics& metrics, double progress);
  void checkpoint(const std::string& run, std::int64_t step);
  /// Ends the line that redraws itself, if there is one.
  void finish();

 private:
  std::string status(const StepMetrics& metrics, double progress) const;
  void redraw(const std::string& line);
  void print(const std::string& line);

  std::int64_t log_every_;
  bool terminal_;
  bool drawn_ = false;
  std::string stage_;
  std::optional<std::int64_t> total_steps_;
  double first_progress_ = -1;  // where this process began, for the time that is left
  double seconds_ = 0;          // spent since then
  double smoothed_loss_ = 0;
  double tokens_per_s_ = 0;
};

}  // namespace halftone::cli
