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
#include "halftone/train/config_file.h"
#include "halftone/train/language_modeling.h"
#include "halftone/train/model_checkpoint.h"
#include "halftone/train/run_directory.h"
#include "halftone/train/trained_model.h"
#include "halftone/train/trainer.h"

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
  options.adaptive = config.loss_scale == "adaptive";
  if (const std::optional<double> fixed = parse_number(config.loss_scale))
    options.init_scale = options.min_scale = options.max_scale = *fixed;
  return options;
}

LanguageModeling make_module(const TrainConfig& config, const Inputs& inputs) {
  torch::manual_seed(static_cast<std::uint64_t>(config.seed));
  MiniMindLM model(inputs.model);
  if (!config.init_from.empty()) initialize_from(model, config.init_from);
  return {std::move(model),
          {.adamw = {.lr = config.lr,
                     .weight_decay = config.weight_decay,
                     .stochastic_rounding =
                         inputs.precision.stochastic_rounding && config.rounding == "stochastic",
                     .seed = static_cast<std::uint64_t>(config.seed)},
           .schedule = {.kind = parse_schedule(config.schedule),
                        .warmup = static_cast<double>(config.warmup)}}};
}

BatchLoader make_loader(const TrainConfig& config, const Inputs& inputs) {
  return BatchLoader(inputs.data, {.batch_size = config.batch_size,
                                   .seq_len = config.seq_len,
                                   .pack = config.pack,
                                   .shuffle = config.shuffle,
                                   .seed = static_cast<std::uint64_t>(config.seed)});
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

/// Lends the run to `events` while it trains, and keeps what the result needs.
class EventsCallback : public Callback {
 public:
  EventsCallback(const PretrainEvents& events, const TrainConfig& config, const Inputs& inputs,
                 LanguageModeling& module)
      : events_(events), config_(config), inputs_(inputs), module_(module) {}

  void on_fit_start(Trainer& trainer) override {
    const RunPaths& run = trainer.run_directory()->paths();
    if (!std::filesystem::exists(run.tokenizer())) inputs_.tokenizer.save(run.root);
    if (trainer.loop().finished())
      log_note(
          "the run has reached its limits; raise --max-steps, --max-epochs or --max-time to go on");
    if (events_.on_start) events_.on_start(plan(trainer));
  }

  void on_step_end(Trainer& trainer, const StepMetrics& metrics) override {
    if (!result_.first_loss) result_.first_loss = metrics.loss;
    result_.last_loss = metrics.loss;
    result_.skipped_steps += metrics.skipped ? 1 : 0;
    if (events_.on_step) events_.on_step(metrics, trainer.loop().progress());
    if (events_.should_stop && events_.should_stop() && !trainer.loop().finished()) trainer.stop();
  }

  void on_fit_end(Trainer& trainer) override {
    result_.stopped = trainer.stopped();
    const RunCounters& counters = trainer.loop().counters();
    result_.steps = counters.step;
    result_.tokens = counters.tokens;
    result_.seconds = counters.seconds;
  }

  const PretrainResult& result() const { return result_; }

 private:
  PretrainPlan plan(const Trainer& trainer) {
    const FitLoop& loop = trainer.loop();
    const bool sixteen_bit = inputs_.precision.compute != torch::kFloat32;
    return {.run = config_.out,
            .parameters = parameter_count(module_.model()),
            .vocab_size = inputs_.model.vocab_size,
            .training_tokens = static_cast<std::int64_t>(inputs_.data.tokens->size()),
            .batches_per_epoch = loop.length().batches_per_epoch().value_or(0),
            .total_steps = loop.length().total_steps(),
            .first_step = loop.counters().step + 1,
            .precision = inputs_.precision.name,
            .device = inputs_.device.str(),
            .threads = torch::get_num_threads(),
            .matmul_paths = sixteen_bit && inputs_.device.is_cpu()
                                ? matmul_paths_of(inputs_.precision.compute)
                                : ""};
  }

  const PretrainEvents& events_;
  const TrainConfig& config_;
  const Inputs& inputs_;
  LanguageModeling& module_;
  PretrainResult result_;
};

PretrainResult fit(const TrainConfig& config, const Inputs& inputs, const PretrainEvents& events,
                   const FitOptions& options) {
  TrainConfig initial = config;
  if (options.resume) initial.init_from.clear();  // its weights are in the checkpoint by now
  LanguageModeling module = make_module(initial, inputs);
  BatchLoader loader = make_loader(config, inputs);
  TrainConfig resolved = config;
  resolved.model = inputs.model;
  const auto progress = std::make_shared<EventsCallback>(events, config, inputs, module);
  const auto checkpoints =
      std::make_shared<ModelCheckpoint>(ModelCheckpointOptions{.every_n_steps = config.save_every,
                                                               .every_n_epochs = 0,
                                                               .keep_last = config.keep_checkpoints,
                                                               .on_saved = events.on_checkpoint});
  Trainer trainer({.max_epochs = config.max_epochs,
                   .max_steps = config.max_steps,
                   .max_time = config.max_time,
                   .precision = config.precision,
                   .accelerator = config.device,
                   .accumulate_grad_batches = config.accumulate,
                   .gradient_clip_val = config.grad_clip,
                   .callbacks = {progress, checkpoints},
                   .default_root_dir = config.out,
                   .overwrite = config.overwrite,
                   .scaler = scaler_options(config),
                   .keep_fp32 = config.keep_fp32,
                   .config_toml = config_to_toml(resolved)});
  trainer.fit(module, loader, options);
  return progress->result();
}

}  // namespace

PretrainResult pretrain(const TrainConfig& config, const PretrainEvents& events) {
  check_new_run(config.out, config.overwrite);
  return fit(config, prepare(config, std::nullopt, events), events, {});
}

PretrainResult resume_pretraining(const TrainConfig& config, const PretrainEvents& events) {
  const RunPaths run = find_run(config.out);
  return fit(config, prepare(config, Tokenizer::load(run.root), events), events, {.resume = true});
}

}  // namespace halftone
