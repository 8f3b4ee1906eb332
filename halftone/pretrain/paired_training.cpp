// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/paired_training.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/nn/evaluation_mode.h"
#include "halftone/precision/keep_fp32.h"
#include "halftone/run/checkpoint.h"
#include "halftone/train/fit_loop.h"
#include "halftone/train/network_state.h"

namespace halftone {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kValidationBatches = 4;
constexpr std::int64_t kFewestSteps = 4;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// One of the two.
class Training {
 public:
  Training(const TrainConfig& config, PretrainInputs inputs, const TrainingStart& start)
      : inputs_(with_precision(std::move(inputs), config)),
        module_(make_module(without_initial_weights(config, start), inputs_)),
        loader_(make_loader(config, inputs_)),
        task_(module_, loader_),
        precision_(inputs_.precision, trainer_options_for(config).scaler, inputs_.device,
                   memory_policy(config.memory, inputs_.precision), config.layer_precision) {
    keep_fp32(module_.network(), config.keep_fp32);
    loop_ = std::make_unique<FitLoop>(task_, precision_, options_for(config));
    if (!start.run.empty())
      loop_->load_checkpoint(load_checkpoint(checkpoint_folder(start.run, start.step)));
  }

  bool finished() const { return loop_->finished(); }
  void step() { times_.push_back(1e-3 * loop_->step().step_ms); }

  double median_seconds() const {
    std::vector<double> times = times_;
    // The first step is not typical: its memory is new.
    if (times.size() > 1) times.erase(times.begin());
    const auto middle = times.begin() + std::ssize(times) / 2;
    std::nth_element(times.begin(), middle, times.end());
    return *middle;
  }

  /// The mean loss of the batches after the last one that it trained on.
  double validation_loss() {
    const torch::NoGradGuard no_grad;
    const EvaluationMode mode(module_.network());
    const std::int64_t first = task_.epochs() * loader_.batches_per_epoch() + task_.batch_index();
    double nats = 0, tokens = 0;
    for (std::int64_t i = 0; i < kValidationBatches; ++i) {
      const TokenBatch batch = loader_.batch_at(first + i).to(precision_.device());
      const auto region = precision_.forward_context();
      const double loss = module_.model()
                              ->loss(batch.input_ids, batch.target_ids, batch.loss_mask)
                              .cross_entropy.item<double>();
      nats += loss * static_cast<double>(batch.tokens);
      tokens += static_cast<double>(batch.tokens);
    }
    return nats / tokens;
  }

 private:
  static PretrainInputs with_precision(PretrainInputs inputs, const TrainConfig& config) {
    inputs.precision = parse_precision(config.precision);
    return inputs;
  }
  static TrainConfig without_initial_weights(TrainConfig config, const TrainingStart& start) {
    if (!start.run.empty()) config.init_from.clear();  // they are in the checkpoint
    return config;
  }
  static FitLoopOptions options_for(const TrainConfig& config) {
    return {.limits = {config.max_steps, config.max_epochs, config.max_time},
            .accumulate = config.accumulate,
            .loss_average = parse_loss_average(config.loss_average),
            .clip = {.value = config.grad_clip},
            .seed = static_cast<std::uint64_t>(config.seed)};
  }

  PretrainInputs inputs_;
  LanguageModeling module_;
  TokenLoader loader_;
  ModuleTrainingTask<LanguageModeling, TokenLoader> task_;
  MixedPrecision precision_;
  std::unique_ptr<FitLoop> loop_;
  std::vector<double> times_;
};

}  // namespace

PairedTraining train_side_by_side(const TrainConfig& first, const TrainConfig& second,
                                  const PretrainInputs& inputs, const TrainingStart& start,
                                  const PairedLimits& limits,
                                  const std::function<void(double share)>& progress) {
  const Clock::time_point begin = Clock::now();
  Training one(first, inputs, start), other(second, inputs, start);
  PairedTraining result;
  double pair = 0;  // seconds of the last two steps
  const auto is_over = [&] {
    // A forward pass is a third of a step, of one micro-batch.
    const double evaluation = static_cast<double>(kValidationBatches) * pair / 3;
    return result.steps >= limits.most_steps ||
           (result.steps >= kFewestSteps &&
            seconds_since(begin) + pair + evaluation > limits.seconds);
  };
  while (!is_over() && !one.finished() && !other.finished()) {
    const Clock::time_point now = Clock::now();
    one.step();
    other.step();
    pair = seconds_since(now);
    ++result.steps;
    if (progress) progress(std::min(1.0, seconds_since(begin) / limits.seconds));
  }
  if (result.steps == 0) return result;
  result.validation_batches = kValidationBatches;
  result.first_loss = one.validation_loss();
  result.second_loss = other.validation_loss();
  result.first_step_s = one.median_seconds();
  result.second_step_s = other.median_seconds();
  return result;
}

}  // namespace halftone
