// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/pretrainer.h"

#include <chrono>
#include <utility>
#include <vector>

#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/core/memory.h"
#include "halftone/core/random.h"
#include "halftone/kernels/matmul_path.h"
#include "halftone/models/parameter_names.h"
#include "halftone/nn/loss.h"

namespace halftone {
namespace {

using Clock = std::chrono::steady_clock;

std::vector<std::pair<std::string, torch::Tensor>> named_parameters(MixedPrecision& precision,
                                                                    MiniMindLM& model) {
  precision.convert_module(*model);
  std::vector<std::pair<std::string, torch::Tensor>> named;
  for (const auto& parameter : model->named_parameters())
    named.emplace_back(parameter.key(), parameter.value());
  return named;
}

constexpr double kMebibyte = 1024.0 * 1024.0;

}  // namespace

Pretrainer::Pretrainer(MiniMindLM model, BatchLoader loader, MixedPrecision precision,
                       const PretrainerOptions& options)
    : model_(std::move(model)),
      loader_(std::move(loader)),
      precision_(std::move(precision)),
      options_(options),
      length_(options.limits, loader_.batches_per_epoch(), options.accumulate),
      optimizer_(named_parameters(precision_, model_), options.adamw) {
  model_->train();
}

Pretrainer::LossTerms Pretrainer::forward(const Batch& batch) {
  const Autocast autocast = precision_.forward_context();
  const ModelOutput output = model_->forward(batch.input_ids.to(options_.device));
  const torch::Tensor cross_entropy = masked_cross_entropy(
      output.logits.flatten(0, 1), batch.target_ids.to(options_.device).flatten(),
      batch.loss_mask.to(options_.device).flatten());
  return {cross_entropy + output.aux_loss, output.aux_loss};
}

StepMetrics Pretrainer::step() {
  const Clock::time_point start = Clock::now();
  const std::int64_t group = length_.next_group(counters_);
  optimizer_.set_lr(length_.learning_rate(options_.schedule, counters_, group));
  optimizer_.zero_grad();

  StepMetrics metrics;
  torch::Tensor loss = torch::zeros({}, torch::device(options_.device));
  torch::Tensor aux_loss = torch::zeros_like(loss);
  for (std::int64_t i = 0; i < group; ++i) {
    const Batch batch = loader_.next();
    const LossTerms terms = forward(batch);
    precision_.backward(terms.loss / group);
    loss += terms.loss.detach() / group;
    aux_loss += terms.aux_loss.detach() / group;
    metrics.tokens += batch.tokens;
  }
  metrics.epoch = length_.epoch(counters_);
  metrics.lr = optimizer_.lr();
  metrics.scale = precision_.loss_scale();
  const StepResult result = precision_.step(optimizer_, options_.clip_norm);

  ++counters_.step;
  counters_.micro_step = loader_.position();
  if (result.stepped) counters_.schedule_step += group;
  counters_.tokens += metrics.tokens;
  metrics.step = counters_.step;
  metrics.loss = loss.item<double>();
  if (model_->config().use_moe) metrics.aux_loss = aux_loss.item<double>();
  metrics.grad_norm = result.grad_norm;
  metrics.skipped = !result.stepped;
  metrics.overflow = result.overflow;
  metrics.tokens_total = counters_.tokens;
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  counters_.seconds += seconds;
  metrics.step_ms = seconds * 1e3;
  metrics.tokens_per_s = static_cast<double>(metrics.tokens) / seconds;
  if (options_.device.is_cuda())
    metrics.cuda_mib = static_cast<double>(cuda_peak_bytes(options_.device)) / kMebibyte;
  metrics.rss_mib = static_cast<double>(resident_bytes()) / kMebibyte;
  return metrics;
}

Checkpoint Pretrainer::checkpoint() const {
  Checkpoint checkpoint;
  checkpoint.step = counters_.step;
  checkpoint.model = parameters_of(model_);
  checkpoint.optimizer = optimizer_.state_dict();
  StateDict& trainer = checkpoint.trainer;
  trainer.values = {{"step", counters_.step},
                    {"schedule_step", counters_.schedule_step},
                    {"tokens", counters_.tokens},
                    {"seconds", counters_.seconds},
                    {"precision", precision_.policy().name},
                    {"matmul_paths", to_string(matmul_paths())}};
  trainer.insert("scaler.", precision_.state_dict());
  trainer.insert("data.", loader_.state_dict());
  trainer.insert("rng.", rng_state(options_.device));
  return checkpoint;
}

void Pretrainer::load_checkpoint(const Checkpoint& checkpoint) {
  const StateDict& trainer = checkpoint.trainer;
  const auto saved_precision = trainer.get<std::string>("precision");
  if (saved_precision != precision_.policy().name)
    throw UserError("the checkpoint was trained in precision '" + saved_precision +
                    "', but this run asks for '" + precision_.policy().name +
                    "'; resume with the run's own precision");
  loader_.load_state_dict(trainer.extract("data."));
  load_parameters(model_, checkpoint.model, "the checkpoint");
  optimizer_.load_state_dict(checkpoint.optimizer);
  precision_.load_state_dict(trainer.extract("scaler."));
  counters_ = {.step = trainer.get<std::int64_t>("step"),
               .micro_step = loader_.position(),
               .schedule_step = trainer.get<std::int64_t>("schedule_step"),
               .tokens = trainer.get<std::int64_t>("tokens"),
               .seconds = trainer.get<double>("seconds")};
  // Another GEMM is another order of summation, hence other bits.
  set_matmul_paths(parse_matmul_choice(trainer.get<std::string>("matmul_paths")));
  set_rng_state(options_.device, trainer.extract("rng."));
}

}  // namespace halftone
