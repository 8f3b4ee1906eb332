// SPDX-License-Identifier: Apache-2.0
// Averages of the weights over a run, which often generalise better than the last ones. What is
// averaged stands in for the weights in validation, in every checkpoint's model.safetensors and, at
// the end, in the module; training goes on with its own, which the checkpoint has as well.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "halftone/train/callback.h"

namespace halftone {

/// What the two averages below share. A Trainer takes one of them. Each fit() begins a new average,
/// unless it resumes one.
class WeightAveraging : public Callback {
 public:
  void setup(const Trainer& trainer) override;
  void on_validation_start(Trainer& trainer) override;
  void on_validation_end(Trainer& trainer, const std::map<std::string, double>& values) override;
  void on_exception(Trainer& trainer, const std::exception& error) override;
  void on_save_checkpoint(Trainer& trainer, Checkpoint& checkpoint) override;
  void on_fit_end(Trainer& trainer) override;
  bool reads_weights() const override { return true; }

  StateDict state_dict() const override;
  void load_state_dict(const StateDict& state) override;

  /// The averages by name, in fp32 where the weights are floating; empty before the first update.
  const std::map<std::string, torch::Tensor>& averages() const { return averages_; }
  std::int64_t updates() const { return updates_; }

 protected:
  /// Moves each average by `share` of the way to the present weights; the first update takes them
  /// as they are. Buffers move along, or are copied.
  void update(Trainer& trainer, double share, bool averages_buffers);
  /// Puts the averages into the module, and keeps what it had; or puts that back.
  void swap_in(Trainer& trainer);
  void swap_back(Trainer& trainer);
  /// Takes the module's present buffers for the averages'.
  void take_buffers(Trainer& trainer);

 private:
  std::map<std::string, torch::Tensor> averages_;
  std::map<std::string, torch::Tensor> trained_;  // where the averages are in the module
  std::int64_t updates_ = 0;
};

struct EmaOptions {
  double decay = 0.999;            // what stays of the average at an update
  std::int64_t every_n_steps = 1;  // after steps n, 2n, ...; one that is skipped loses its turn
  std::int64_t start_step = 0;     // nothing is averaged up to this step
  bool average_buffers = true;     // false: buffers are copied
  bool warmup = false;             // begins with a short memory: of n updates, about n / 9 at first
};

/// average = decay * average + (1 - decay) * weight after each step, as Lightning's
/// EMAWeightAveraging. A skipped step does not move it. With `warmup`, update n has the decay
/// min(decay, (1 + n) / (10 + n)), as TensorFlow's ExponentialMovingAverage with num_updates: the
/// weights of the first steps, which are worth little, are soon forgotten.
class Ema : public WeightAveraging {
 public:
  /// Throws UserError for options out of range.
  explicit Ema(EmaOptions options = {});
  void on_fit_start(Trainer& trainer) override;
  void add_metrics(Trainer& trainer, StepMetrics& metrics) override;
  std::string state_key() const override { return "ema"; }

 private:
  EmaOptions options_;
  std::int64_t applied_ = 0;  // updates of the run that were
};

enum class Annealing { kCosine, kLinear };

struct SwaOptions {
  double swa_lr = 0.01;          // the rate that all groups come to
  double swa_epoch_start = 0.8;  // from this epoch on: below 1, a share of max_epochs; else from 1
  std::int64_t annealing_epochs = 10;
  Annealing annealing = Annealing::kCosine;
};

/// Stochastic weight averaging (Izmailov et al. 2018): from an epoch on, the learning rates go to a
/// constant, and the mean of the weights at the ends of these epochs is taken. When the run is
/// done, the statistics of batch-norm layers in train mode are computed anew in one pass over the
/// training data.
class Swa : public WeightAveraging {
 public:
  /// Throws UserError for options out of range.
  explicit Swa(SwaOptions options = {});
  void setup(const Trainer& trainer) override;
  /// Throws UserError for batch-norm layers in a module that steps its optimizers itself.
  void on_fit_start(Trainer& trainer) override;
  void on_train_batch_start(Trainer& trainer, std::int64_t index) override;
  void add_metrics(Trainer& trainer, StepMetrics& metrics) override;
  void on_train_end(Trainer& trainer) override;

  std::string state_key() const override { return "swa"; }
  StateDict state_dict() const override;
  void load_state_dict(const StateDict& state) override;

 private:
  void note_first_rates(const Trainer& trainer);

  SwaOptions options_;
  std::int64_t first_epoch_ = 1;     // of those that are averaged
  std::vector<double> first_rates_;  // of all groups, when it began
};

}  // namespace halftone
