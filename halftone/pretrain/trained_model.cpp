// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/trained_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <system_error>

#include "halftone/core/error.h"
#include "halftone/io/weights.h"
#include "halftone/models/file_names.h"
#include "halftone/models/int8_weights.h"
#include "halftone/models/model_family.h"
#include "halftone/models/parameter_names.h"
#include "halftone/pretrain/config_schema.h"
#include "halftone/pretrain/hugging_face_config.h"
#include "halftone/pretrain/peft_adapter.h"
#include "halftone/pretrain/run_weights.h"
#include "halftone/run/checkpoint.h"
#include "halftone/run/run_directory.h"

namespace halftone {
namespace {

/// Weights that another program may have written.
StateDict open_foreign(const std::filesystem::path& path) {
  const std::string source = weights_file(path).string();
  return without_wrappers(restore_int8_weights(open_weights(path), source), source);
}

/// A model of `config`, with the adapters of `lora` if there are any, with the weights of `file`.
/// What does not fit is refused before memory is asked for.
CausalLM model_of(const ModelConfig& config, const StateDict& file, const std::string& source,
                  const LoraConfig& lora = {}) {
  check_parameters(file, config, source, lora);
  CausalLM model(config);
  if (lora.rank > 0) model->add_adapters(lora);
  load_parameters(model, file, source);
  return model;
}

TrainedModel load_hugging_face(const std::filesystem::path& folder) {
  const std::filesystem::path config_file = folder / "config.json";
  read_hugging_face_config(config_file);  // another model is refused by name before its weights are
  const std::filesystem::path path = weights_file(folder);
  const StateDict file = open_foreign(path);
  const bool has_head =
      file.tensors.contains("lm_head.weight") || file.tensors.contains("output.weight");
  const ModelConfig config = read_hugging_face_config(config_file, !has_head);
  return {.model = model_of(config, file, path.string()),
          .tokenizer = Tokenizer::load(folder),
          .precision = has_int8_products(config_file) ? "int8-mixed" : "32-true"};
}

TrainedModel load_run(const RunWeights& weights) {
  const TrainConfig config = resume_config(weights.run, {});
  const Checkpoint checkpoint = weights.load();
  return {.model = model_of(config.model, checkpoint.model, weights.source(), config.lora),
          .tokenizer = Tokenizer::load(weights.run),
          .precision = config.precision,
          .keep_fp32 = config.keep_fp32,
          .layer_precision = config.layer_precision,
          .seq_len = config.seq_len,
          .pack = config.pack,
          .document_mask = config.document_mask,
          .invalid_utf8 = config.invalid_utf8,
          .special_tokens = config.special_tokens};
}

/// Those of a run, with its adapters merged into them.
StateDict weights_of(const RunWeights& weights) {
  return merged_parameters(weights.load().model, resume_config(weights.run, {}).lora);
}

}  // namespace

TrainedModel load_trained_model(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / "config.json")) return load_hugging_face(folder);
  if (const auto weights = find_run_weights(folder)) return load_run(*weights);
  if (is_peft_folder(folder))
    throw UserError(fmt::format(
        "'{}' holds an adapter without the model that it belongs to; name it as lora.adapter of a "
        "run whose init_from is that model",
        folder.string()));
  return load_run({.run = find_run(folder).root, .checkpoint = {}});  // throws: no checkpoint
}

InitialWeights::InitialWeights(const std::filesystem::path& file_or_folder)
    : made_for_(model_of_folder(file_or_folder)) {
  const auto weights = find_run_weights(file_or_folder);
  state_ = weights ? weights_of(*weights) : open_foreign(file_or_folder);
  source_ = weights ? weights->source() : weights_file(file_or_folder).string();
}

void InitialWeights::check(const ModelConfig& config) const {
  check_parameters(state_, config, source_);
  if (!made_for_) return;
  const ModelConfig& theirs = *made_for_;
  const auto require_same = [&](const char* key, double saved, double now) {
    if (saved != now)
      throw UserError(fmt::format("{}: its weights were made for model.{} {}, got {}; set it so",
                                  source_, key, saved, now));
  };
  const auto count = [](std::int64_t n) { return static_cast<double>(n); };
  require_same("n_heads", count(theirs.n_heads), count(config.n_heads));
  require_same("norm_eps", theirs.norm_eps, config.norm_eps);
  require_same("rope_theta", theirs.rope_theta, config.rope_theta);
  if (!config.use_moe) return;
  require_same("num_experts_per_tok", count(theirs.num_experts_per_tok),
               count(config.num_experts_per_tok));
  if (config.num_experts_per_tok == 1 &&
      family_of(theirs).normalises_single_expert != family_of(config).normalises_single_expert)
    throw UserError(
        fmt::format("{}: its weights were made for model.generation {}, got {}; set it so", source_,
                    theirs.generation, config.generation));
}

void InitialWeights::copy_to(CausalLM& model) const { load_parameters(model, state_, source_); }

void initialize_from(CausalLM& model, const std::filesystem::path& file_or_folder) {
  InitialWeights(file_or_folder).copy_to(model);
}

TokenizerInterface tokenizer_interface(const Tokenizer& tokenizer, SpecialTokenParsing parsing) {
  const SpecialTokens special = tokenizer.special_tokens();
  return {.encode = [tokenizer,
                     parsing](std::string_view text) { return tokenizer.encode(text, parsing); },
          .count_special_tokens =
              [tokenizer](std::string_view text) { return tokenizer.count_special_tokens(text); },
          .reads_special_tokens = parsing == SpecialTokenParsing::kTokens,
          .vocab_size = tokenizer.vocab_size(),
          .bos_id = static_cast<std::int32_t>(special.bos),
          .eos_id = static_cast<std::int32_t>(special.eos),
          .pad_id = static_cast<std::int32_t>(special.pad),
          .identity = tokenizer.json(),
          .encode_chat =
              [tokenizer](std::span<const ChatMessage> messages) {
                return tokenizer.encode_conversation(messages);
              },
          .chat_identity = tokenizer.has_chat_template() ? tokenizer.chat_template().jinja() : ""};
}

std::vector<std::int64_t> token_bytes(const Tokenizer& tokenizer, std::int64_t vocab_size) {
  std::vector<std::int64_t> bytes(static_cast<std::size_t>(vocab_size), 0);
  for (std::int32_t id = 0; id < vocab_size; ++id) {
    const std::array<std::int32_t, 1> ids = {id};
    bytes[static_cast<std::size_t>(id)] =
        static_cast<std::int64_t>(tokenizer.decode_bytes(ids, /*skip_special_tokens=*/true).size());
  }
  return bytes;
}

}  // namespace halftone
