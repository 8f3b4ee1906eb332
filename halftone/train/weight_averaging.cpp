// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/weight_averaging.h"

#include <fmt/format.h>
#include <torch/nn/modules/batchnorm.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <utility>

#include "halftone/core/dtype.h"
#include "halftone/core/error.h"
#include "halftone/train/network_state.h"
#include "halftone/train/trainer.h"

namespace halftone {
namespace {

constexpr const char* kUpdates = "updates";
constexpr const char* kAverage = "average.";
constexpr const char* kFirstRate = "first_rate.";

std::vector<std::string> buffer_names(const torch::nn::Module& module) {
  std::vector<std::string> names;
  for (const auto& item : module.named_buffers()) names.push_back(item.key());
  return names;
}

bool holds(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

torch::Tensor to_average(const torch::Tensor& weight) {
  const torch::Tensor copy = weight.detach().clone();
  return is_half(weight.scalar_type()) ? copy.to(torch::kFloat) : copy;
}

/// Its batch-norm layers that gather statistics, whatever their number of dimensions: one that was
/// left in eval mode is frozen.
template <class Act>
void for_each_batch_norm(torch::nn::Module& module, const Act& act) {
  const auto act_on = [&](auto* layer) {
    if (layer != nullptr && layer->is_training() && layer->options.track_running_stats())
      act(*layer);
  };
  for (const auto& one : module.modules(/*include_self=*/false)) {
    act_on(dynamic_cast<torch::nn::BatchNorm1dImpl*>(one.get()));
    act_on(dynamic_cast<torch::nn::BatchNorm2dImpl*>(one.get()));
    act_on(dynamic_cast<torch::nn::BatchNorm3dImpl*>(one.get()));
  }
}

bool has_batch_norm(torch::nn::Module& module) {
  bool found = false;
  for_each_batch_norm(module, [&](auto& /*layer*/) { found = true; });
  return found;
}

/// While it lives, the layers take the mean over all batches since it was made.
class BatchNormMeans {
 public:
  explicit BatchNormMeans(torch::nn::Module& module) {
    for_each_batch_norm(module, [this](auto& layer) {
      layer.reset_running_stats();
      restore_.push_back(
          [&layer, momentum = layer.options.momentum()] { layer.options.momentum(momentum); });
      layer.options.momentum(std::nullopt);
    });
  }
  ~BatchNormMeans() {
    for (const auto& act : restore_) act();
  }
  BatchNormMeans(const BatchNormMeans&) = delete;
  BatchNormMeans& operator=(const BatchNormMeans&) = delete;

 private:
  std::vector<std::function<void()>> restore_;
};

template <class Act>
void for_each_group(const Trainer& trainer, const Act& act) {
  std::size_t number = 0;
  for (const OptimizerSetup& setup : trainer.loop().optimizers())
    for (auto& group : setup.optimizer->param_groups()) act(group, number++);
}

}  // namespace

void WeightAveraging::setup(const Trainer& /*trainer*/) {
  averages_.clear();
  trained_.clear();
  updates_ = 0;
}

void WeightAveraging::update(Trainer& trainer, double share, bool averages_buffers) {
  const torch::NoGradGuard no_grad;
  const torch::nn::Module& network = trainer.module().network();
  const std::vector<std::string> buffers = buffer_names(network);
  const bool first = updates_++ == 0;
  for (const auto& [name, weight] : network_state(network).tensors) {
    torch::Tensor& average = averages_[name];
    const bool copied =
        first || !weight.is_floating_point() || (!averages_buffers && holds(buffers, name));
    if (copied) {
      average = to_average(weight);
    } else {
      average = average.to(weight.device());  // a resumed one is on the CPU
      average.lerp_(weight.to(average.scalar_type()), share);
    }
  }
}

// Two names may be one tensor: all are copied before the first is written.
void WeightAveraging::swap_in(Trainer& trainer) {
  if (averages_.empty() || !trained_.empty()) return;
  const torch::NoGradGuard no_grad;
  const StateDict state = network_state(trainer.module().network());
  for (const auto& [name, weight] : state.tensors) trained_[name] = weight.clone();
  for (const auto& [name, weight] : state.tensors) weight.copy_(averages_.at(name));
}

void WeightAveraging::swap_back(Trainer& trainer) {
  const torch::NoGradGuard no_grad;
  const StateDict state = network_state(trainer.module().network());
  for (const auto& [name, weight] : std::exchange(trained_, {}))
    state.tensors.at(name).copy_(weight);
}

void WeightAveraging::take_buffers(Trainer& trainer) {
  const torch::nn::Module& network = trainer.module().network();
  for (const auto& item : network.named_buffers()) averages_[item.key()] = to_average(item.value());
}

void WeightAveraging::on_validation_start(Trainer& trainer) { swap_in(trainer); }

void WeightAveraging::on_validation_end(Trainer& trainer,
                                        const std::map<std::string, double>& /*values*/) {
  swap_back(trainer);
}

void WeightAveraging::on_exception(Trainer& trainer, const std::exception& /*error*/) {
  swap_back(trainer);
}

void WeightAveraging::on_save_checkpoint(Trainer& /*trainer*/, Checkpoint& checkpoint) {
  for (const auto& [name, average] : averages_) {
    torch::Tensor& weight = checkpoint.model.tensors.at(name);
    const auto trained = trained_.find(name);  // after the last step, the average is in the module
    checkpoint.trainer.tensors[kTrainedWeights + name] =
        trained == trained_.end() ? weight : trained->second;
    weight = average.to(weight.options());
  }
}

void WeightAveraging::on_fit_end(Trainer& trainer) { swap_in(trainer); }

StateDict WeightAveraging::state_dict() const {
  StateDict state;
  state.values[kUpdates] = updates_;
  state.insert(kAverage, {.tensors = averages_});
  return state;
}

void WeightAveraging::load_state_dict(const StateDict& state) {
  updates_ = state.get<std::int64_t>(kUpdates);
  averages_ = state.extract(kAverage).tensors;
}

Ema::Ema(EmaOptions options) : options_(options) {
  if (!(options.decay >= 0.0 && options.decay < 1.0) || options.every_n_steps < 1)
    throw UserError(
        fmt::format("ema: expected 0 <= decay < 1 and every_n_steps >= 1, got {:g} and {}",
                    options.decay, options.every_n_steps));
}

void Ema::on_fit_start(Trainer& trainer) { applied_ = trainer.loop().counters().updates; }

// After the update, if there was one, and before the validation that belongs to it.
void Ema::add_metrics(Trainer& trainer, StepMetrics& metrics) {
  const std::int64_t applied = trainer.loop().counters().updates;
  if (std::exchange(applied_, applied) == applied || metrics.step <= options_.start_step ||
      metrics.step % options_.every_n_steps != 0)
    return;
  const auto n = static_cast<double>(updates());
  const double decay =
      options_.warmup ? std::min(options_.decay, (1.0 + n) / (10.0 + n)) : options_.decay;
  update(trainer, 1.0 - decay, options_.average_buffers);
}

Swa::Swa(SwaOptions options) : options_(options) {
  if (!(options.swa_lr > 0.0) || !(options.swa_epoch_start > 0.0) || options.annealing_epochs < 0)
    throw UserError(fmt::format(
        "swa: expected swa_lr > 0, swa_epoch_start > 0 and annealing_epochs >= 0, got {:g}, {:g} "
        "and {}",
        options.swa_lr, options.swa_epoch_start, options.annealing_epochs));
}

void Swa::setup(const Trainer& trainer) {
  WeightAveraging::setup(trainer);
  first_rates_.clear();
  const std::optional<std::int64_t>& epochs = trainer.options().max_epochs;
  if (options_.swa_epoch_start >= 1.0) {
    first_epoch_ = static_cast<std::int64_t>(options_.swa_epoch_start);
    return;
  }
  if (!epochs)
    throw UserError(fmt::format(
        "swa: swa_epoch_start = {:g} is a share of max_epochs, which is not set; set it, or give "
        "swa_epoch_start as the number of an epoch",
        options_.swa_epoch_start));
  first_epoch_ = std::max<std::int64_t>(
      1, static_cast<std::int64_t>(static_cast<double>(*epochs) * options_.swa_epoch_start));
}

void Swa::note_first_rates(const Trainer& trainer) {
  if (!first_rates_.empty()) return;
  for_each_group(trainer, [this](auto& group, std::size_t /*number*/) {
    first_rates_.push_back(group.options().get_lr());
  });
}

// A schedule has set the rates for the step by now.
void Swa::on_train_batch_start(Trainer& trainer, std::int64_t /*index*/) {
  const std::int64_t epoch = trainer.loop().counters().epochs + 1;
  if (epoch < first_epoch_) return;
  note_first_rates(trainer);
  const double passed = static_cast<double>(epoch - first_epoch_);
  const double share = options_.annealing_epochs == 0
                           ? 1.0
                           : std::min(1.0, passed / static_cast<double>(options_.annealing_epochs));
  const double way = options_.annealing == Annealing::kLinear
                         ? share
                         : (1.0 - std::cos(std::numbers::pi * share)) / 2.0;
  for_each_group(trainer, [&](auto& group, std::size_t number) {
    const double first = first_rates_.at(number);
    group.options().set_lr(first + (options_.swa_lr - first) * way);
  });
}

void Swa::add_metrics(Trainer& trainer, StepMetrics& metrics) {
  const bool epoch_has_ended = trainer.loop().counters().epochs >= metrics.epoch;
  if (epoch_has_ended && metrics.epoch >= first_epoch_)
    update(trainer, 1.0 / static_cast<double>(updates() + 1), /*averages_buffers=*/true);
}

void Swa::on_fit_start(Trainer& trainer) {
  TrainingModuleBase& module = trainer.module();
  if (!module.automatic_optimization() && has_batch_norm(module.network()))
    throw UserError(
        "swa: the statistics of batch-norm layers would be computed by training_step(), which "
        "steps "
        "the optimizers of this module itself; use Ema instead, or layers without statistics");
}

void Swa::on_train_end(Trainer& trainer) {
  torch::nn::Module& network = trainer.module().network();
  if (!trainer.loop().finished() || averages().empty() || !has_batch_norm(network)) return;
  swap_in(trainer);
  {
    const BatchNormMeans means(network);
    trainer.pass_over_training_data();
  }
  take_buffers(trainer);
  swap_back(trainer);
  // The last checkpoint may have been written with the statistics from before.
  constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();
  if (const RunDirectory* const run = trainer.run_directory())
    trainer.save_checkpoint(run->paths().root, {.last = kAll});
}

StateDict Swa::state_dict() const {
  StateDict state = WeightAveraging::state_dict();
  for (std::size_t i = 0; i < first_rates_.size(); ++i)
    state.values[kFirstRate + std::to_string(i)] = first_rates_[i];
  return state;
}

void Swa::load_state_dict(const StateDict& state) {
  WeightAveraging::load_state_dict(state);
  first_rates_.clear();
  for (std::size_t i = 0; state.values.contains(kFirstRate + std::to_string(i)); ++i)
    first_rates_.push_back(state.get<double>(kFirstRate + std::to_string(i)));
}

}  // namespace halftone
