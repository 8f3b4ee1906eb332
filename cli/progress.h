// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "halftone/train/pretrain.h"

namespace halftone::cli {

/// Terminals are slow: says when the next drawing is due.
class Pace {
 public:
  bool due();

 private:
  std::chrono::steady_clock::time_point next_{};
};

/// "evaluating" and a bar on a terminal, nothing otherwise.
class ShareProgress {
 public:
  explicit ShareProgress(std::string what);
  void show(double share);
  /// Takes the bar away again.
  void clear();

 private:
  std::string what_;
  bool terminal_;
  bool drawn_ = false;
  Pace pace_;
};

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
  Pace pace_;
  std::string stage_;
  std::optional<std::int64_t> total_steps_;
  std::int64_t steps_ = 0;      // of this process
  double first_progress_ = -1;  // where this process began, for the time that is left
  double seconds_ = 0;          // spent since then
  double smoothed_loss_ = 0;
  double tokens_per_s_ = 0;
};

}  // namespace halftone::cli
