// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "halftone/train/callback.h"
#include "halftone/train/monitor.h"

namespace halftone {

struct ModelCheckpointOptions {
  std::int64_t every_n_steps = 0;    // 0: not by steps
  std::int64_t every_n_epochs = 1;   // 0: not by epochs
  double train_time_interval = 0.0;  // seconds of training; 0: not by time
  std::int64_t keep_last = 2;        // newest checkpoints that stay
  /// A value that validation logs, such as "val_loss": the best checkpoints by it are kept in
  /// RUN/best beside the newest ones. A nan or an inf is never among them.
  std::string monitor;
  MonitorMode mode = MonitorMode::kMin;
  std::int64_t save_top_k = 1;  // best checkpoints that stay; -1: all, 0: none
  /// Told after each save.
  std::function<void(const std::filesystem::path& run, std::int64_t step)> on_saved;
};

/// Saves checkpoints into the run directory: every so often, at the end, also when the run is
/// stopped, and the best one. What is saved is the state after all callbacks of the step, wherever
/// this one stands among them. A Trainer with a default_root_dir has one anyway.
class ModelCheckpoint : public Callback {
 public:
  explicit ModelCheckpoint(ModelCheckpointOptions options = {});

  void setup(const Trainer& trainer) override;
  void on_fit_start(Trainer& trainer) override;
  void on_step_end(Trainer& trainer, const StepMetrics& metrics) override;
  void on_epoch_end(Trainer& trainer, std::int64_t epoch) override;
  void on_validation_end(Trainer& trainer, const std::map<std::string, double>& values) override;
  void on_train_end(Trainer& trainer) override;
  void on_checkpoint_saved(Trainer& trainer, const std::filesystem::path& folder) override;
  void on_fit_end(Trainer& trainer) override;

  std::string state_key() const override { return kStateKey; }
  StateDict state_dict() const override;
  void load_state_dict(const StateDict& state) override;

  static constexpr const char* kStateKey = "model_checkpoint";

  struct Best {
    std::int64_t step;
    double value;  // of the monitor
  };
  /// The best checkpoint of the run; nothing before the first finite value.
  std::optional<Best> best() const;

 private:
  void save(Trainer& trainer);
  void keep_if_best(Trainer& trainer, double value);
  bool is_better(double value, double other) const;
  void forget_missing(const Trainer& trainer);

  ModelCheckpointOptions options_;
  Monitor looked_at_;
  std::map<std::int64_t, double> top_;  // the values of the best checkpoints, by their steps
  std::int64_t saved_step_ = 0;
  double saved_seconds_ = 0.0;
};

/// The best checkpoint in a RUN/best that a ModelCheckpoint wrote; nothing in another folder.
std::optional<std::filesystem::path> best_checkpoint(const std::filesystem::path& where);

}  // namespace halftone
