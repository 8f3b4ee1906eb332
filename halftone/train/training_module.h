// SPDX-License-Identifier: Apache-2.0
// The module that a Trainer trains, after Lightning's: it defines its loss and its optimizers. The
// Trainer owns precision, device, accumulation, clipping, logging and saving.
#pragma once

#include <torch/data/example.h>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "halftone/optim/lr_schedule.h"
#include "halftone/train/batch_weight.h"

namespace halftone {

/// An optimizer and how its learning rates move. The schedule's `lr` does not matter: each
/// parameter group follows it from the rate that the group was made with.
struct OptimizerSetup {
  template <class Optimizer>
  OptimizerSetup(std::shared_ptr<Optimizer> the_optimizer,
                 std::optional<LrScheduleOptions> the_schedule = {})
      : optimizer(std::move(the_optimizer)), schedule(the_schedule) {}

  std::shared_ptr<torch::optim::Optimizer> optimizer;
  std::optional<LrScheduleOptions> schedule;  // warmup in optimizer steps
};

/// Means of what was logged, summed on the device; reading them waits for it, unless it was waited
/// for since start_reading(). A value of weight 0 does not count.
class LoggedValues {
 public:
  void add(const std::string& name, const torch::Tensor& value, double weight);
  /// Queues copies to the host behind what the device does.
  void start_reading();
  /// The means by name, and forgets them.
  std::map<std::string, double> take();

 private:
  struct Sum {
    torch::Tensor value;  // fp64 scalar
    torch::Tensor host;   // its copy, once the device was waited for
    double weight = 0;
  };
  std::map<std::string, Sum> sums_;
};

/// The part of a TrainingModule that does not depend on the type of its batches.
class TrainingModuleBase : public torch::nn::Module {
 public:
  /// Called once the parameters have their dtype and device. All of the optimizers step on each
  /// update.
  virtual std::vector<OptimizerSetup> configure_optimizers() = 0;

  /// The network that is trained, saved and named in messages: this module, unless it wraps
  /// another.
  virtual torch::nn::Module& network() { return *this; }

  virtual void on_fit_start() {}
  virtual void on_train_epoch_start(std::int64_t /*epoch*/) {}  // from 1
  virtual void on_train_epoch_end(std::int64_t /*epoch*/) {}
  /// The gradients are complete and still carry the loss scale; where the memory recipe releases
  /// them, there are none yet.
  virtual void on_before_optimizer_step() {}
  virtual void on_fit_end() {}

  LoggedValues& logged() { return logged_; }
  /// Says what the batch of the next step counts; the Trainer's part.
  void set_batch_weight(const BatchWeight& weight) { batch_weight_ = weight; }
  /// The tokens counted since the last call.
  std::int64_t take_tokens() { return std::exchange(tokens_, 0); }
  /// Goes on counting from what take_tokens() gave.
  void restore_tokens(std::int64_t tokens) { tokens_ = tokens; }

 protected:
  /// Adds `value`, a scalar, to the metrics: the mean over an update's micro-batches in training,
  /// over all batches in validation and test. A batch weighs `weight`; without one, what it weighs
  /// in the mean of the losses.
  void log(const std::string& name, const torch::Tensor& value, std::optional<double> weight = {}) {
    logged_.add(name, value, weight.value_or(batch_weight_.loss));
  }
  void log(const std::string& name, double value, std::optional<double> weight = {}) {
    log(name, torch::scalar_tensor(value, torch::kDouble), weight);
  }
  /// What the present batch counts.
  const BatchWeight& batch_weight() const { return batch_weight_; }
  /// `mean`, one over the batch's samples, as a term of a loss that is a mean over something else
  /// (loss_weight()): the optimizer step gets the mean over all its samples.
  torch::Tensor over_samples(const torch::Tensor& mean) const {
    return batch_weight_.samples_to_loss == 1.0 ? mean : mean * batch_weight_.samples_to_loss;
  }
  /// The unit that `tokens` and `tokens_per_s` of the metrics count.
  void count_tokens(std::int64_t tokens) { tokens_ += tokens; }

 private:
  LoggedValues logged_;
  BatchWeight batch_weight_;
  std::int64_t tokens_ = 0;
};

/// Derive from it, register submodules as in any torch::nn::Module, and say what the loss is.
template <class BatchType = torch::data::Example<>>
class TrainingModule : public TrainingModuleBase {
 public:
  using Batch = BatchType;

  /// The loss of a batch, a scalar; `index` counts the batches of the epoch from 0. Runs under
  /// autocast where the precision has it; the batch is on the module's device, and in a true
  /// 16-bit precision its floating-point tensors are in that format.
  virtual torch::Tensor training_step(const Batch& batch, std::int64_t index) = 0;

  /// Over how many samples, tokens or whatever counts alike the loss of `batch` is the mean: its
  /// weight in the loss of an optimizer step of several batches, in "val_loss" and in what is
  /// logged without a weight of its own. A batch of weight 0 is left out. Must not depend on the
  /// device; `batch` is as the loader gave it.
  virtual double loss_weight(const Batch& batch) const {
    return static_cast<double>(sample_count(batch));
  }

  /// Logs what is to be known of a batch, in eval mode and without gradients: the loss as
  /// "val_loss" unless overridden.
  virtual void validation_step(const Batch& batch, std::int64_t index) {
    log("val_loss", training_step(batch, index));
  }
  /// The same for Trainer::test, as "test_loss".
  virtual void test_step(const Batch& batch, std::int64_t index) {
    log("test_loss", training_step(batch, index));
  }
};

}  // namespace halftone
