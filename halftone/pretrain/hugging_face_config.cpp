// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/hugging_face_config.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "halftone/pretrain/foreign_config_impl.h"

namespace halftone {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{1} << 20U;
constexpr std::string_view kFamily = "a MiniMind of the second generation in Llama's form";

void append(std::vector<ForeignKey>& table, std::vector<ForeignKey> more) {
  table.insert(table.end(), std::make_move_iterator(more.begin()),
               std::make_move_iterator(more.end()));
}

auto integer_into(std::int64_t& target, std::int64_t least = 1) {
  return [&target, least](const JsonField& field) {
    target = field.as_integer(least, std::numeric_limits<std::int32_t>::max());
  };
}

auto number_into(double& target) {
  return [&target](const JsonField& field) { target = field.as_number(); };
}

/// The base of the rotary embedding stands beside the other keys, or with them in an object.
class RopeTheta {
 public:
  void set(const JsonField& field) {
    const double theta = field.as_number();
    if (value_ && *value_ != theta) field.fail("must be the same wherever it stands");
    value_ = theta;
  }
  const std::optional<double>& value() const { return value_; }

 private:
  std::optional<double> value_;
};

bool is_list_of(const json& value, const std::vector<std::string>& allowed) {
  return value.is_array() && std::all_of(value.begin(), value.end(), [&](const json& one) {
           return one.is_string() && std::find(allowed.begin(), allowed.end(),
                                               one.get<std::string>()) != allowed.end();
         });
}

/// rope_scaling and rope_parameters: nothing but the base may stand there.
void read_rope(const JsonField& rope, RopeTheta& theta, const std::string& path) {
  std::vector<ForeignKey> table = {
      only("type", {"default"}), only("rope_type", {"default"}), only("partial_rotary_factor", {1}),
      reads("rope_theta", [&](const JsonField& field) { theta.set(field); })};
  read_foreign_config(rope, table, "no scaling of the rotary embedding", path + ": " + rope.name());
}

std::vector<ForeignKey> size_keys(ModelConfig& model) {
  return {
      requires_key("hidden_size", integer_into(model.dim)),
      requires_key("num_hidden_layers", integer_into(model.n_layers)),
      requires_key("num_attention_heads", integer_into(model.n_heads)),
      reads("num_key_value_heads", integer_into(model.n_kv_heads)),
      reads("head_dim", integer_into(model.head_dim)),
      requires_key("intermediate_size", integer_into(model.hidden_dim)),
      requires_key("vocab_size", integer_into(model.vocab_size)),
      requires_key("max_position_embeddings", integer_into(model.max_seq_len)),
      requires_key("rms_norm_eps", number_into(model.norm_eps)),
  };
}

/// MiniMind's own; a Llama has none of them.
std::vector<ForeignKey> expert_keys(ModelConfig& model) {
  return {
      reads("use_moe", [&](const JsonField& field) { model.use_moe = field.as_bool(); }),
      reads("n_routed_experts", integer_into(model.n_routed_experts)),
      reads("num_experts_per_tok", integer_into(model.num_experts_per_tok)),
      reads("n_shared_experts", integer_into(model.n_shared_experts, 0)),
      reads("aux_loss_alpha", number_into(model.aux_loss_alpha)),
      only("scoring_func", {"softmax"}),
      only("norm_topk_prob", {true}),
      only("num_experts", {0}),
      only("num_local_experts", {0}),
  };
}

/// What other models with the same names of tensors compute otherwise, and the values with which
/// they would not.
std::vector<ForeignKey> keys_of_other_models() {
  return {
      only_if("architectures",
              [](const json& value) {
                return is_list_of(value, {"LlamaForCausalLM", "MiniMindForCausalLM"});
              }),
      only("model_type", {"llama", "minimind"}),
      only("hidden_act", {"silu", "swish"}),
      only("attention_bias", {false}),
      only("mlp_bias", {false}),
      only("use_bias", {false}),
      only("embedding_multiplier", {1}),
      only("residual_multiplier", {1}),
      only("attention_multiplier", {}),
      only("logits_scaling", {1}),
      only("logit_scale", {1}),
      only("embedding_scale", {1}),
      only("scale_emb", {1}),
      only("scale_depth", {}),
      only("dim_model_base", {}),
      only("query_pre_attn_scalar", {}),
      only("attn_logit_softcapping", {}),
      only("final_logit_softcapping", {}),
      only("sliding_window", {}),
      only("use_sliding_window", {false}),
      only_if("layer_types",
              [](const json& value) { return is_list_of(value, {"full_attention"}); }),
      only("partial_rotary_factor", {1}),
      only("rope_interleaved", {false}),
      only("inference_rope_scaling", {false}),
      only("qk_norm", {false}),
      only("use_qk_norm", {false}),
      only("qk_layernorm", {false}),
      only("clip_qkv", {}),
      only("use_parallel_residual", {false}),
      only("parallel_attn", {false}),
      only("alibi", {false}),
      only("quantization_config", {}),
      only("compression_config", {}),
      only("is_encoder_decoder", {false}),
      only("add_cross_attention", {false}),
      only("cross_attention_hidden_size", {}),
      only("pruned_heads", {json::object()}),
  };
}

/// Training, generation, bookkeeping, and ways to compute the same.
std::vector<ForeignKey> keys_without_effect() {
  return harmless({
      "_attn_implementation",
      "_attn_implementation_autoset",
      "_commit_hash",
      "_name_or_path",
      "attention_dropout",
      "attn_implementation",
      "auto_map",
      "bad_words_ids",
      "begin_suppress_tokens",
      "bos_token_id",
      "chunk_size_feed_forward",
      "decoder_start_token_id",
      "diversity_penalty",
      "do_sample",
      "dropout",
      "dtype",
      "early_stopping",
      "encoder_no_repeat_ngram_size",
      "eos_token_id",
      "exponential_decay_length_penalty",
      "finetuning_task",
      "flash_attn",
      "forced_bos_token_id",
      "forced_eos_token_id",
      "id2label",
      "initializer_range",
      "is_decoder",
      "label2id",
      "length_penalty",
      "max_length",
      "max_window_layers",
      "min_length",
      "no_repeat_ngram_size",
      "num_beam_groups",
      "num_beams",
      "num_return_sequences",
      "output_attentions",
      "output_hidden_states",
      "output_scores",
      "pad_token_id",
      "prefix",
      "pretraining_tp",
      "problem_type",
      "remove_invalid_values",
      "repetition_penalty",
      "return_dict",
      "return_dict_in_generate",
      "sep_token_id",
      "seq_aux",
      "suppress_tokens",
      "task_specific_params",
      "temperature",
      "tf_legacy_loss",
      "tie_encoder_decoder",
      "tokenizer_class",
      "top_k",
      "top_p",
      "torch_dtype",
      "torchscript",
      "transformers_version",
      "typical_p",
      "use_bfloat16",
      "use_cache",
  });
}

}  // namespace

HuggingFaceConfig read_hugging_face_config(const std::filesystem::path& path) {
  const JsonDocument document = read_json_file(path, {.max_bytes = kMaxConfigBytes});
  const JsonField root = document.root();
  HuggingFaceConfig config;
  ModelConfig& model = config.model;
  RopeTheta theta;
  std::vector<ForeignKey> table = {
      reads("tie_word_embeddings",
            [&](const JsonField& field) { config.is_untied = !field.as_bool(); }),
      reads("rope_theta", [&](const JsonField& field) { theta.set(field); })};
  for (const char* name : {"rope_scaling", "rope_parameters"})
    table.push_back(
        reads(name, [&](const JsonField& field) { read_rope(field, theta, path.string()); }));
  append(table, size_keys(model));
  append(table, expert_keys(model));
  append(table, keys_of_other_models());
  append(table, keys_without_effect());
  read_foreign_config(root, table, kFamily, path.string());
  if (!theta.value()) root["rope_theta"].fail("must be a number");
  model.rope_theta = *theta.value();
  if (root["num_key_value_heads"].is_null()) model.n_kv_heads = model.n_heads;
  validate(model);
  return config;
}

}  // namespace halftone
