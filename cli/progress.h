// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "halftone/pretrain/pretrain.h"
#include "halftone/system/terminal.h"
#include "halftone/train/progress_bar.h"

namespace halftone::cli {

/// "evaluating" and a bar on a terminal, nothing otherwise.
class ShareProgress {
 public:
  explicit ShareProgress(std::string what);
  void show(double share);
  /// Takes the bar away again.
  void clear() { line_.clear(); }

 private:
  std::string what_;
  bool terminal_;
  StatusLine line_;
  Pace pace_;
};

/// What a person watches while a model trains: its preparation, what is trained, the progress bar.
class TrainingProgress {
 public:
  explicit TrainingProgress(std::int64_t log_every);

  void preparation(const std::string& stage, double share);
  void start(const PretrainPlan& plan);
  void step(const StepMetrics& metrics, double progress) { bar_.step(metrics, progress); }
  void checkpoint(const std::string& run, std::int64_t step);
  /// Ends the line that redraws itself, if there is one.
  void finish() { bar_.line().finish(); }

 private:
  ProgressBar bar_;
  bool terminal_;
  Pace pace_;
  std::string stage_;
};

}  // namespace halftone::cli
