// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
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

/// A bar with the name of the stage that a command is in, on a terminal; nothing otherwise.
class StageProgress {
 public:
  StageProgress();
  /// REQUIRES a share of 0..1.
  void show(const std::string& stage, double share);
  /// Takes the bar away again.
  void clear() { line_.clear(); }

 private:
  bool terminal_;
  std::string stage_;
  StatusLine line_;
  Pace pace_;
};

/// The display of a training: its preparation, a summary of the run, the progress bar.
class TrainingProgress : public ProgressBar {
 public:
  using ProgressBar::ProgressBar;

  void preparation(const std::string& stage, double share);
  void start(const RunSummary& plan);
  void on_checkpoint_saved(Trainer& trainer, const std::filesystem::path& folder) override;

 private:
  Pace pace_;
  std::string stage_;
};

}  // namespace halftone::cli
