// SPDX-License-Identifier: Apache-2.0
// The module that a Trainer trains, after Lightning's: it defines its loss and its optimizers. The
// Trainer owns precision, device, accumulation, clipping, logging and saving.
#pragma once

#include <torch/data/example.h>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/core/state_dict.h"
#include "halftone/optim/lr_shapes.h"
#include "halftone/train/batch_weight.h"
#include "halftone/train/manual_optimization.h"
#include "halftone/train/optimizer_context.h"

namespace halftone {

/// An optimizer, any of LibTorch's or halftone::AdamW, and how its learning rates move: each
/// parameter group follows the schedule from the rate that the group was made with. The `lr` of
/// LrScheduleOptions does not matter, its `warmup` counts optimizer steps.
struct OptimizerSetup {
  template <class Optimizer>
  OptimizerSetup(std::shared_ptr<Optimizer> the_optimizer,
                 std::optional<LrSchedule> the_schedule = {})
      : optimizer(std::move(the_optimizer)), schedule(std::move(the_schedule)) {
    static_assert(std::is_base_of_v<torch::optim::Optimizer, Optimizer>,
                  "expected an optimizer that derives from torch::optim::Optimizer");
  }

  std::shared_ptr<torch::optim::Optimizer> optimizer;
  std::optional<LrSchedule> schedule;
};

/// Means of what was logged, summed on the device; reading them waits for it, unless it was waited
/// for since start_reading(). A value of weight 0 does not count.
class LoggedValues {
 public:
  void add(const std::string& name, const torch::Tensor& value, double weight);
  /// Queues copies to the host behind what the device does.
  void start_reading();
  /// Counts what the other processes logged, too. Waits.
  void add_up(ProcessGroup& group);
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
  /// Called once the parameters have their dtype and device. A halftone::AdamW gets its options
  /// from context.adamw(); one that lacks what the run asks for ends it with a UserError. All of
  /// the optimizers step on each update, unless the module steps them itself.
  virtual std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) = 0;

  /// False: training_step() steps the optimizers, with optimizer() and manual_backward(). Each
  /// batch is a step of the run then, and what training_step() returns is only logged; an undefined
  /// tensor logs no loss.
  virtual bool automatic_optimization() const { return true; }

  /// The network that is trained, saved and named in messages: this module, unless it wraps
  /// another.
  virtual torch::nn::Module& network() { return *this; }

  // Hooks. Each comes after the callbacks' of the same name; StepHooks says more of those of a
  // step.
  virtual void on_fit_start() {}
  virtual void on_train_epoch_start(std::int64_t /*epoch*/) {}  // from 1
  virtual void on_train_batch_start(std::int64_t /*index*/) {}  // in its epoch, from 0
  virtual void on_before_zero_grad() {}
  virtual void on_before_backward(const torch::Tensor& /*loss*/) {}
  virtual void on_after_backward() {}
  virtual void on_before_optimizer_step() {}
  virtual void on_train_batch_end(std::int64_t /*index*/) {}
  virtual void on_validation_start() {}  // in train mode still
  /// After the last batch of each validation loader: the place to log what is no mean over batches,
  /// with a weight of 1. Of several processes() each has seen its own batches until then.
  virtual void on_validation_loader_end() {}
  /// The same in Trainer::test().
  virtual void on_test_loader_end() {}
  virtual void on_validation_end() {}
  virtual void on_train_epoch_end(std::int64_t /*epoch*/) {}
  virtual void on_fit_end() {}
  /// The exception that ends the run. REQUIRES that this function does not throw.
  virtual void on_exception(const std::exception& /*error*/) {}

  /// What the next step depends on beside parameters and buffers, such as a queue or a counter:
  /// part of each checkpoint.
  virtual StateDict extra_state() const { return {}; }
  virtual void load_extra_state(const StateDict& /*state*/) {}

  /// What save_hyper_parameters() was given: the values from which this module can be built again.
  /// Part of each checkpoint; load_saved_model() hands them out.
  const StateDict& hyper_parameters() const { return hyper_parameters_; }

  LoggedValues& logged() { return logged_; }
  /// Says what the batch of the next step counts; the Trainer's part.
  void set_batch_weight(const BatchWeight& weight) { batch_weight_ = weight; }
  /// The tokens counted since the last call.
  std::int64_t take_tokens() { return std::exchange(tokens_, 0); }
  /// Which of several loaders the present batch is of; the Trainer's part.
  void set_dataloader(std::size_t index, bool is_one_of_several) {
    dataloader_ = index;
    log_suffix_ = is_one_of_several ? "/dataloader_idx_" + std::to_string(index) : "";
  }
  /// Those that share the batches; the Trainer's part.
  void set_processes(ProcessGroup* processes) { processes_ = processes; }
  /// In force while training_step() runs; the Trainer's part.
  void set_manual_optimization(ManualOptimization* manual) { manual_ = manual; }
  /// Goes on counting from what take_tokens() gave.
  void restore_tokens(std::int64_t tokens) { tokens_ = tokens; }

 protected:
  /// In the constructor: save_hyper_parameters({{"width", width}, {"activation", "relu"}}). A later
  /// call adds to an earlier one.
  void save_hyper_parameters(const std::map<std::string, StateDict::Value>& values);

  /// Within training_step() of a module without automatic_optimization(): the optimizers in the
  /// order of configure_optimizers().
  ManualOptimizer& optimizer(std::size_t index = 0) { return manual().optimizer(index); }
  /// Back-propagates a loss, scaled where the precision scales. `retain_graph`: another loss goes
  /// through the same graph.
  void manual_backward(const torch::Tensor& loss, bool retain_graph = false) {
    manual().backward(loss, retain_graph);
  }
  /// d sum(output) / d input of each input, differentiable and without the loss scale: for a
  /// penalty on gradients. Undefined for an input that `output` does not depend on.
  std::vector<torch::Tensor> gradients(const torch::Tensor& output,
                                       const std::vector<torch::Tensor>& inputs) {
    return manual().gradients(output, inputs);
  }

  /// Adds `value`, a scalar, to the metrics: the mean over an update's micro-batches in training,
  /// over all batches in validation and test. A batch weighs `weight`; without one, what it weighs
  /// in the mean of the losses.
  void log(const std::string& name, const torch::Tensor& value, std::optional<double> weight = {}) {
    logged_.add(name + log_suffix_, value, weight.value_or(batch_weight_.loss));
  }
  void log(const std::string& name, double value, std::optional<double> weight = {}) {
    log(name, torch::scalar_tensor(value, torch::kDouble), weight);
  }
  /// Logs each of several losses, scalars, by its name, and returns their sum, added in this order:
  /// for training_step() to return. Throws c10::Error for none, for one that is no scalar, and for
  /// two of one name.
  torch::Tensor log_losses(const std::vector<std::pair<std::string, torch::Tensor>>& losses);
  /// In validation, test and prediction with Loaders: which of them the batch comes from.
  std::size_t dataloader_index() const { return dataloader_; }
  /// The processes that share the batches of a validation or test; nullptr: this one has all.
  ProcessGroup* processes() const { return processes_; }
  /// What the present batch counts.
  const BatchWeight& batch_weight() const { return batch_weight_; }
  /// `mean`, one over the batch's samples, as a term of a loss that is a mean over something else
  /// (loss_weight()): the optimizer step gets the mean over all its samples.
  torch::Tensor over_samples(const torch::Tensor& mean) const {
    return batch_weight_.samples_to_loss == 1.0 ? mean : mean * batch_weight_.samples_to_loss;
  }
  /// The unit that `tokens` and `tokens_per_s` of the metrics count.
  void count_tokens(std::int64_t tokens) { tokens_ += tokens; }

  /// Throws UserError where training_step() can't stand in for the step called `name`: it would
  /// step the optimizers.
  void check_default_step(const char* name) const;

 private:
  ManualOptimization& manual() const;

  LoggedValues logged_;
  BatchWeight batch_weight_;
  std::int64_t tokens_ = 0;
  StateDict hyper_parameters_;  // values only
  ManualOptimization* manual_ = nullptr;
  std::size_t dataloader_ = 0;
  ProcessGroup* processes_ = nullptr;
  std::string log_suffix_;
};

[[noreturn]] void throw_no_predict_step();

/// Derive from it, register submodules as in any torch::nn::Module, and say what the loss is.
template <class BatchType = torch::data::Example<>, class PredictionType = torch::Tensor>
class TrainingModule : public TrainingModuleBase {
 public:
  using Batch = BatchType;
  using Prediction = PredictionType;

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
    check_default_step("validation_step");
    log("val_loss", training_step(batch, index));
  }
  /// The same for Trainer::test, as "test_loss".
  virtual void test_step(const Batch& batch, std::int64_t index) {
    check_default_step("test_step");
    log("test_loss", training_step(batch, index));
  }
  /// What Trainer::predict() gives of a batch, in eval mode and without gradients.
  virtual Prediction predict_step(const Batch& /*batch*/, std::int64_t /*index*/) {
    throw_no_predict_step();
  }
};

}  // namespace halftone
