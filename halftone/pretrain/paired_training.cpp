// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/paired_training.h"

#include <algorithm>
#include <memory>

#include "halftone/core/median.h"
#include "halftone/core/stopwatch.h"
#include "halftone/nn/evaluation_mode.h"
#include "halftone/precision/keep_fp32.h"
#include "halftone/pretrain/config_precision.h"
#include "halftone/run/checkpoint.h"
#include "halftone/train/fit_loop.h"
#include "halftone/train/network_state.h"

namespace halftone {
namespace {

constexpr std::int64_t kValidationBatches = 4;
constexpr std::int64_t kFewestSteps = 4;

/// One of the two.
class Training {
 public:
  Training(const TrainConfig& config, const PretrainInputs& inputs, const TrainingStart& start)
      : module_(make_module(without_initial_weights(config, start), inputs)),
        loader_(make_loader(config, inputs)),
        task_(module_, loader_),
        precision_(policy_of(config), trainer_options_for(config).scaler, inputs.device,
                   memory_policy(config.memory, policy_of(config)), config.layer_precision) {
    keep_fp32(module_.network(), config.keep_fp32);
    loop_ = std::make_unique<FitLoop>(task_, precision_, options_for(config));
    if (!start.run.empty())
      loop_->load_checkpoint(load_checkpoint(checkpoint_folder(start.run, start.step)));
  }

  bool finished() const { return loop_->finished(); }
  void step() { times_.push_back(1e-3 * loop_->step().step_ms); }

  /// The first step is not typical: its memory is new.
  double median_seconds() const {
    return median({times_.begin() + (times_.size() > 1 ? 1 : 0), times_.end()});
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
  const Stopwatch watch;
  Training one(first, inputs, start), other(second, inputs, start);
  PairedTraining result;
  double pair = 0;  // seconds of the last two steps
  const auto is_over = [&] {
    // A forward pass is a third of a step, of one micro-batch.
    const double evaluation = static_cast<double>(kValidationBatches) * pair / 3;
    return result.steps >= limits.most_steps ||
           (result.steps >= kFewestSteps && watch.seconds() + pair + evaluation > limits.seconds);
  };
  while (!is_over() && !one.finished() && !other.finished()) {
    const Stopwatch turn;
    one.step();
    other.step();
    pair = turn.seconds();
    ++result.steps;
    if (progress) progress(std::min(1.0, watch.seconds() / limits.seconds));
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
