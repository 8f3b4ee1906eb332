// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/pretrain_inputs.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <utility>

#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/text.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/fast_cpu_gemms.h"
#include "halftone/models/causal_lm.h"
#include "halftone/plan/layer_plan.h"
#include "halftone/precision/keep_fp32.h"
#include "halftone/pretrain/config_precision.h"
#include "halftone/pretrain/peft_adapter.h"
#include "halftone/pretrain/plan_request.h"
#include "halftone/pretrain/run_weights.h"
#include "halftone/pretrain/trained_model.h"
#include "halftone/system/file_memory.h"
#include "halftone/tokenizer/bpe_trainer.h"
#include "halftone/train/layer_precision.h"

namespace halftone {
namespace {

std::function<void(std::uint64_t, std::uint64_t)> byte_progress(const PreparationProgress& progress,
                                                                const std::string& stage) {
  return [&progress, stage](std::uint64_t done, std::uint64_t total) {
    if (progress)
      progress(stage, total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total));
  };
}

Tokenizer train_tokenizer(Corpus& corpus, const TrainConfig& config,
                          const PreparationProgress& progress) {
  const auto bytes_read = byte_progress(progress, "reading text for the tokenizer");
  BpeTrainer trainer({.vocab_size = config.tokenizer_vocab_size});
  corpus.rewind();
  for (Document document; corpus.next(document);) {
    trainer.add_text(document.text);
    for (const auto* messages : {&document.messages, &document.rejected})
      for (const ChatMessage& message : *messages) trainer.add_text(message.content);
    bytes_read(corpus.bytes_read(), corpus.bytes());
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

void check_named_modules(const TrainConfig& config) {
  if (config.keep_fp32.empty() && config.layer_precision.empty()) return;
  CausalLM smallest = smallest_model(config.model, config.lora);
  check_keep_fp32(*smallest, config.keep_fp32);
  layer_types(*smallest, config.layer_precision, policy_of(config));
}

/// With the vocabulary of the tokenizer, if it is known already; else with the smallest that one
/// could have, so that only a run is refused that will not fit with any.
void check_memory_before_data(const TrainConfig& config,
                              const std::optional<Tokenizer>& tokenizer) {
  ModelConfig model = tokenizer ? model_for(config, *tokenizer) : config.model;
  if (model.vocab_size == 0) model.vocab_size = 1;
  check_memory_budget(config, model);
}

/// Each part must have a document, which is known before the text is encoded.
void check_split(const TrainConfig& config, const Corpus& corpus) {
  if (!config.val_split) return;
  Document document;
  for (const auto side : {SamplePart::Side::kHeldOut, SamplePart::Side::kOthers})
    corpus.other_part(held_out_part(config, side)).next(document);
}

SampleKind task_kind(const TrainConfig& config) {
  if (config.task == "sft") return SampleKind::kConversation;
  return config.task == "dpo" ? SampleKind::kPreference : SampleKind::kText;
}

/// The tokenizer that the weights which a chat model starts from were trained with: another one
/// would give them ids of other words.
Tokenizer tokenizer_of_weights(const TrainConfig& config) {
  const auto run = find_run_weights(config.init_from);
  std::filesystem::path folder = run ? run->run : std::filesystem::path(config.init_from);
  if (!std::filesystem::is_directory(folder)) folder = folder.parent_path();
  std::error_code error;
  if (!std::filesystem::exists(folder / "tokenizer.json", error))
    throw UserError(fmt::format(
        "init_from: '{}' has no tokenizer.json beside its weights; name the one that they were "
        "trained with as tokenizer",
        config.init_from));
  return Tokenizer::load(folder);
}

void configure_kernels(const KernelConfig& kernels, torch::Device device) {
  if (!kernels.reference.empty()) configure_reference_kernels(kernels.reference);
  configure_fast_cpu_gemms(kernels.cpu_gemm);
  configure_cpu_gemms(kernels.matmul);
  if (device.is_cpu()) cpu_gemm_config();  // may refuse
}

/// With the weights that training starts from, and the adapters that it trains.
void initialize(CausalLM& model, const TrainConfig& config) {
  if (!config.init_from.empty()) initialize_from(model, config.init_from);
  if (config.lora.rank == 0) return;
  model->add_adapters(config.lora);
  if (!config.init_from.empty() && !config.lora_adapter.empty())
    load_adapter(model, read_adapter(config.lora_adapter, model->config()));
}

/// The model that training starts from.
void set_reference(LanguageModeling& module, const TrainConfig& config,
                   const PretrainInputs& inputs) {
  // New adapters add nothing.
  if (config.lora.rank > 0 && config.lora_adapter.empty()) return module.set_base_as_reference();
  CausalLM reference(inputs.model);
  initialize(reference, config);
  // A run that is gone on with has kept it.
  if (config.init_from.empty()) initialize_from(reference, reference_weights(config.out));
  module.set_reference(std::move(reference));
}

void check_offload(const std::string& folder) {
  if (folder.empty()) return;
  check_file_memory(folder);
  if (is_folder_in_memory(folder))
    log_warning(fmt::format(
        "offload: '{}' lies in memory itself, so nothing is gained; name a folder on a disk",
        folder));
}

}  // namespace

SamplePart held_out_part(const TrainConfig& config, SamplePart::Side side) {
  return {.side = side,
          .share = config.val_split.value_or(0),
          .seed = static_cast<std::uint64_t>(config.seed)};
}

Corpus open_corpus(const TrainConfig& config) { return open_corpus(config, task_kind(config)); }

Corpus open_corpus(const TrainConfig& config, std::optional<SampleKind> wanted) {
  return Corpus(
      {.paths = {config.data.begin(), config.data.end()},
       .split_paragraphs = !config.pack,
       .replace_invalid_utf8 = config.invalid_utf8 == "replace",
       .part = config.val_split ? held_out_part(config, SamplePart::Side::kOthers) : SamplePart(),
       .wanted = wanted});
}

SpecialTokenParsing special_token_parsing(const TrainConfig& config) {
  return config.special_tokens == "tokens" ? SpecialTokenParsing::kTokens
                                           : SpecialTokenParsing::kText;
}

TokenizedData encode_corpus(Corpus& corpus, const TrainConfig& config, const Tokenizer& tokenizer,
                            const PreparationProgress& progress) {
  TokenizedData data =
      tokenize_corpus(corpus, tokenizer_interface(tokenizer, special_token_parsing(config)),
                      {.progress = byte_progress(progress, "encoding text")});
  if (const std::uint64_t count = data.tokens->special_tokens(); count > 0)
    log_note(fmt::format(
        "the data spells special tokens of the tokenizer, such as {}, {} times; they are read as "
        "{}",
        tokenizer.id_to_token(static_cast<std::int32_t>(tokenizer.special_tokens().eos)).value(),
        count,
        data.reads_special_tokens ? "tokens"
                                  : "text (to read them as tokens, set special_tokens to tokens)"));
  return data;
}

PretrainInputs prepare_pretraining(const TrainConfig& config, std::optional<Tokenizer> tokenizer,
                                   const PreparationProgress& progress) {
  const torch::Device device = resolve_device(config.device);
  configure_kernels(config.kernels, device);
  check_offload(config.memory.offload);
  if (config.threads > 0) torch::set_num_threads(static_cast<int>(config.threads));
  std::optional<InitialWeights> weights;
  if (!config.init_from.empty()) weights.emplace(config.init_from);
  const auto corpus = std::make_shared<Corpus>(open_corpus(config));
  check_named_modules(config);
  if (!tokenizer && !config.tokenizer.empty()) tokenizer = Tokenizer::load(config.tokenizer);
  if (!tokenizer && config.task != "pretrain" && weights) tokenizer = tokenizer_of_weights(config);
  check_memory_before_data(config, tokenizer);
  check_split(config, *corpus);
  if (!tokenizer) tokenizer = train_tokenizer(*corpus, config, progress);
  const ModelConfig model = model_for(config, *tokenizer);
  if (weights) weights->check(model);
  check_memory_budget(config, model);
  TokenizedData data = encode_corpus(*corpus, config, *tokenizer, progress);
  return {*tokenizer, std::move(data), model, device, corpus};
}

LanguageModeling make_module(const TrainConfig& config, const PretrainInputs& inputs) {
  torch::manual_seed(static_cast<std::uint64_t>(config.seed));
  CausalLM model(inputs.model);
  initialize(model, config);
  const AdamWOptions adamw{.lr = config.lr,
                           .weight_decay = config.weight_decay,
                           .seed = static_cast<std::uint64_t>(config.seed)};
  LanguageModeling module(
      std::move(model), {.adamw = adamw,
                         .schedule = {.kind = parse_schedule(config.schedule),
                                      .warmup = static_cast<double>(config.warmup)},
                         .token_bytes = has_validation(config)
                                            ? token_bytes(inputs.tokenizer, inputs.model.vocab_size)
                                            : std::vector<std::int64_t>(),
                         .dpo_beta = config.dpo.beta});
  if (config.task == "dpo") set_reference(module, config, inputs);
  return module;
}

std::filesystem::path reference_weights(const std::filesystem::path& run) {
  return run / "reference.safetensors";
}

TokenLoaderOptions row_options(const TrainConfig& config) {
  return {.batch_size = config.batch_size,
          .seq_len = config.seq_len,
          .pack = config.pack,
          .shuffle = false,
          .document_mask = config.document_mask};
}

TokenLoader make_loader(const TrainConfig& config, const PretrainInputs& inputs) {
  TokenLoaderOptions options = row_options(config);
  options.shuffle = config.shuffle;
  options.seed = static_cast<std::uint64_t>(config.seed);
  return TokenLoader(inputs.data, options);
}

TrainerOptions trainer_options_for(const TrainConfig& config) {
  return {.max_epochs = config.max_epochs,
          .max_steps = config.max_steps,
          .max_time = config.max_time,
          .precision = config.precision,
          .accelerator = config.device,
          .shard = config.shard,
          .gradient_sum = config.gradient_sum,
          .reduce_dtype = config.reduce_dtype,
          .accumulate_grad_batches = config.accumulate,
          .loss_average = config.loss_average,
          .gradient_clip_val = config.grad_clip,
          .detect_anomaly = config.detect_anomaly == "first",
          .scaler = scaler_options(config),
          .memory = config.memory,
          .keep_fp32 = config.keep_fp32,
          .layer_precision = config.layer_precision,
          .seed = static_cast<std::uint64_t>(config.seed)};
}

}  // namespace halftone
