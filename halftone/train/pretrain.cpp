// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/pretrain.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/data/bpe_trainer.h"
#include "halftone/data/corpus.h"
#include "halftone/data/token_cache.h"
#include "halftone/data/tokenizer.h"
#include "halftone/kernels/matmul_path.h"
#include "halftone/train/checkpoint.h"
#include "halftone/train/config_file.h"
#include "halftone/train/pretrainer.h"
#include "halftone/train/run_directory.h"
#include "halftone/train/trained_model.h"

namespace halftone {
namespace {

/// What a run starts from once its inputs are known to be good.
struct Inputs {
  Tokenizer tokenizer;
  TokenizedData data;
  ModelConfig model;
  PrecisionPolicy precision;
  torch::Device device;
};

void report(const PretrainEvents& events, const std::string& stage, double share) {
  if (events.on_preparation) events.on_preparation(stage, share);
}

std::function<void(std::uint64_t, std::uint64_t)> byte_progress(const PretrainEvents& events,
                                                                const std::string& stage) {
  return [&events, stage](std::uint64_t done, std::uint64_t total) {
    report(events, stage,
           total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total));
  };
}

Corpus open_corpus(const TrainConfig& config) {
  return Corpus({.paths = {config.data.begin(), config.data.end()},
                 .split_paragraphs = !config.pack,
                 .replace_invalid_utf8 = config.invalid_utf8 == "replace"});
}

Tokenizer train_tokenizer(Corpus& corpus, const TrainConfig& config, const PretrainEvents& events) {
  const auto progress = byte_progress(events, "reading text for the tokenizer");
  BpeTrainer trainer({.vocab_size = config.tokenizer_vocab_size});
  corpus.rewind();
  for (Piece piece; corpus.next(piece);) {
    trainer.add_text(piece.text);
    progress(corpus.bytes_read(), corpus.bytes());
  }
  return trainer.train();
}

ModelConfig model_for(const TrainConfig& config, const Tokenizer& tokenizer) {
  ModelConfig model = config.model;
  if (model.vocab_size == 0) model.vocab_size = tokenizer.vocab_size();
  if (model.vocab_size < tokenizer.vocab_size())
    throw UserError(fmt::format(
        "model.vocab_size is {}, but the tokenizer has {} tokens; leave it out or raise it",
        model.vocab_size, tokenizer.vocab_size()));
  validate(model);
  return model;
}

Inputs prepare(const TrainConfig& config, std::optional<Tokenizer> tokenizer,
               const PretrainEvents& events) {
  const torch::Device device = resolve_device(config.device);
  const PrecisionPolicy precision = parse_precision(config.precision);
  if (device.is_cpu() && precision.compute != torch::kFloat32) matmul_paths();  // may refuse
  if (config.threads > 0) torch::set_num_threads(static_cast<int>(config.threads));
  Corpus corpus = open_corpus(config);
  if (!tokenizer)
    tokenizer = config.tokenizer.empty() ? train_tokenizer(corpus, config, events)
                                         : Tokenizer::load(config.tokenizer);
  const ModelConfig model = model_for(config, *tokenizer);
  TokenizedData data = tokenize_corpus(corpus, tokenizer_interface(*tokenizer),
                                       {.progress = byte_progress(events, "encoding text")});
  return {*tokenizer, std::move(data), model, precision, device};
}

GradScalerOptions scaler_options(const TrainConfig& config) {
  const ScalerConfig& scaler = config.scaler;
  GradScalerOptions options{.init_scale = scaler.init_scale,
                            .growth_factor = scaler.growth_factor,
                            .backoff_factor = scaler.backoff_factor,
                            .growth_interval = scaler.growth_interval,
                            .hysteresis = scaler.hysteresis,
                            .min_scale = scaler.min_scale,
                            .max_scale = scaler.max_scale};
  if (config.loss_scale)
    options.init_scale = options.min_scale = options.max_scale = *config.loss_scale;
  return options;
}

Pretrainer make_pretrainer(const TrainConfig& config, const Inputs& inputs) {
  torch::manual_seed(static_cast<std::uint64_t>(config.seed));
  MiniMindLM model(inputs.model);
  if (!config.init_from.empty()) initialize_from(model, config.init_from);
  BatchLoader loader(inputs.data, {.batch_size = config.batch_size,
                                   .seq_len = config.seq_len,
                                   .pack = config.pack,
                                   .shuffle = config.shuffle,
                                   .seed = static_cast<std::uint64_t>(config.seed)});
  const PretrainerOptions options{
      .limits = {config.max_steps, config.max_epochs, config.max_time},
      .accumulate = config.accumulate,
      .schedule = {.kind = parse_schedule(config.schedule),
                   .lr = config.lr,
                   .warmup = static_cast<double>(config.warmup)},
      .clip_norm = config.grad_clip,
      .adamw = {.lr = config.lr,
                .weight_decay = config.weight_decay,
                .stochastic_rounding =
                    inputs.precision.stochastic_rounding && config.rounding == "stochastic",
                .seed = static_cast<std::uint64_t>(config.seed)},
      .device = inputs.device};
  return Pretrainer(std::move(model), std::move(loader),
                    MixedPrecision(inputs.precision, scaler_options(config), inputs.device),
                    options);
}

/// "native, attention=widened": the ways of the format that is computed in.
std::string matmul_paths_of(torch::ScalarType compute) {
  const std::string format = compute == torch::kBFloat16 ? "bf16" : "fp16";
  std::istringstream ways(to_string(matmul_paths()));
  std::string shown;
  for (std::string way; std::getline(ways, way, ',');) {
    if (!way.starts_with(format)) continue;
    shown += (shown.empty() ? "" : ", ") + way.substr(format.size() + 1);
  }
  return shown;
}

PretrainPlan plan_of(Pretrainer& trainer, const TrainConfig& config, const Inputs& inputs) {
  const bool sixteen_bit = inputs.precision.compute != torch::kFloat32;
  return {.run = config.out,
          .parameters = parameter_count(trainer.model()),
          .vocab_size = inputs.model.vocab_size,
          .training_tokens = static_cast<std::int64_t>(inputs.data.tokens->size()),
          .batches_per_epoch = trainer.loader().batches_per_epoch(),
          .total_steps = trainer.length().total_steps(),
          .first_step = trainer.counters().step + 1,
          .precision = inputs.precision.name,
          .device = inputs.device.str(),
          .threads = torch::get_num_threads(),
          .matmul_paths = sixteen_bit && inputs.device.is_cpu()
                              ? matmul_paths_of(inputs.precision.compute)
                              : ""};
}

/// Ends a run that can't recover: a gradient that is not finite although the scale can't go lower
/// comes from the numbers themselves, and every further update would be skipped like the last.
class HopelessGuard {
 public:
  explicit HopelessGuard(double min_scale) : min_scale_(min_scale) {}

  /// Throws SystemError after too many such steps in a row.
  void check(const StepMetrics& metrics) {
    constexpr int kMostInARow = 10;
    const bool hopeless = metrics.skipped && metrics.scale.value_or(min_scale_) <= min_scale_;
    in_a_row_ = hopeless ? in_a_row_ + 1 : 0;
    if (in_a_row_ < kMostInARow) return;
    throw SystemError(fmt::format(
        "the last {} updates were skipped: gradients are not finite{}, first in {}; go back to the "
        "last checkpoint with a smaller --lr, or try another --precision",
        in_a_row_,
        metrics.scale ? fmt::format(" even at the smallest loss scale {:g}", min_scale_) : "",
        metrics.overflow.empty() ? "an unnamed tensor" : metrics.overflow.front()));
  }

 private:
  double min_scale_;
  int in_a_row_ = 0;
};

PretrainResult run_loop(Pretrainer& trainer, const TrainConfig& config, const RunPaths& paths,
                        const PretrainEvents& events) {
  PretrainResult result;
  MetricsLog metrics_log(paths.metrics(), trainer.counters().step);
  HopelessGuard guard(scaler_options(config).min_scale);
  std::int64_t saved_step = trainer.counters().step;  // of a run that is resumed; else 0
  const auto save = [&] {
    if (saved_step == trainer.counters().step) return;
    save_checkpoint(paths.root, trainer.checkpoint(), config.keep_checkpoints);
    saved_step = trainer.counters().step;
    if (events.on_checkpoint) events.on_checkpoint(paths.root, saved_step);
  };
  while (!trainer.finished() && !result.stopped) {
    const StepMetrics metrics = trainer.step();
    metrics_log.append(metrics);
    if (!result.first_loss) result.first_loss = metrics.loss;
    result.last_loss = metrics.loss;
    result.skipped_steps += metrics.skipped ? 1 : 0;
    if (events.on_step) events.on_step(metrics, trainer.progress());
    if (config.save_every > 0 && metrics.step % config.save_every == 0) save();
    guard.check(metrics);
    result.stopped = events.should_stop && events.should_stop() && !trainer.finished();
  }
  save();
  result.steps = trainer.counters().step;
  result.tokens = trainer.counters().tokens;
  result.seconds = trainer.counters().seconds;
  return result;
}

}  // namespace

PretrainResult pretrain(const TrainConfig& config, const PretrainEvents& events) {
  check_new_run(config.out, config.overwrite);
  const Inputs inputs = prepare(config, std::nullopt, events);
  Pretrainer trainer = make_pretrainer(config, inputs);
  const RunDirectory run = RunDirectory::create(config.out, config.overwrite);
  TrainConfig resolved = config;
  resolved.model = inputs.model;
  run.write_config(config_to_toml(resolved));
  inputs.tokenizer.save(run.paths().root);
  if (events.on_start) events.on_start(plan_of(trainer, config, inputs));
  return run_loop(trainer, config, run.paths(), events);
}

PretrainResult resume_pretraining(const TrainConfig& config, const PretrainEvents& events) {
  const RunDirectory run = RunDirectory::resume(config.out);
  const Checkpoint checkpoint = load_latest_checkpoint(config.out);
  const Inputs inputs = prepare(config, Tokenizer::load(run.paths().root), events);
  TrainConfig continued = config;
  continued.init_from.clear();  // its weights are in the checkpoint by now
  Pretrainer trainer = make_pretrainer(continued, inputs);
  trainer.load_checkpoint(checkpoint);
  run.write_config(config_to_toml(config));
  if (trainer.finished())
    log_note(
        "the run has reached its limits; raise --max-steps, --max-epochs or --max-time to go on");
  if (events.on_start) events.on_start(plan_of(trainer, config, inputs));
  return run_loop(trainer, config, run.paths(), events);
}

}  // namespace halftone
