// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/hugging_face_config.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "halftone/pretrain/foreign_config_impl.h"

namespace halftone {
namespace {

using nlohmann::json;

constexpr std::uint64_t kMaxConfigBytes = std::uint64_t{1} << 20U;
constexpr std::string_view kKnownModels = "a MiniMind, a Llama, a Qwen2 or a Qwen3";

void append(std::vector<ForeignKey>& table, std::vector<ForeignKey> more) {
  table.insert(table.end(), std::make_move_iterator(more.begin()),
               std::make_move_iterator(more.end()));
}

/// Sets the field of `model` that `key` names.
void set_field(ModelConfig& model, const FileKey& key, const JsonField& value) {
  std::visit(
      [&](auto member) {
        using Field = std::remove_reference_t<decltype(model.*member)>;
        if constexpr (std::is_same_v<Field, bool>)
          model.*member = value.as_bool();
        else if constexpr (std::is_same_v<Field, double>)
          model.*member = value.as_number();
        else
          model.*member = value.as_integer(key.least, std::numeric_limits<std::int32_t>::max());
      },
      key.field);
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

bool is_list_of(const json& value, const std::string& only_one) {
  return value.is_array() &&
         std::all_of(value.begin(), value.end(), [&](const json& one) { return one == only_one; });
}

const json& member(const json& value, const char* key) {
  static const json null;
  return value.is_object() && value.contains(key) ? value.at(key) : null;
}

bool is_eight_bits(const json& value, const char* strategy, bool dynamic) {
  return member(value, "num_bits") == 8 && member(value, "type") == "int" &&
         member(value, "symmetric") == true && member(value, "strategy") == strategy &&
         member(value, "dynamic") == dynamic;
}

/// Linear layers of int8 weights, one scale for each output, and inputs that are quantized token by
/// token: what int8-mixed computes.
bool is_w8a8(const json& config) {
  const json& groups = member(config, "config_groups");
  if (member(config, "quant_method") != "compressed-tensors" ||
      member(config, "format") != "int-quantized" || !member(config, "kv_cache_scheme").is_null() ||
      !groups.is_object() || groups.size() != 1)
    return false;
  const json& group = groups.front();
  return member(group, "targets") == json::array({"Linear"}) &&
         member(group, "output_activations").is_null() &&
         is_eight_bits(member(group, "weights"), "channel", false) &&
         is_eight_bits(member(group, "input_activations"), "token", true);
}

/// rope_scaling and rope_parameters: nothing but the base may stand there.
void read_rope(const JsonField& rope, RopeTheta& theta, const std::string& path) {
  std::vector<ForeignKey> table = {
      only("type", {"default"}), only("rope_type", {"default"}), only("partial_rotary_factor", {1}),
      reads("rope_theta", [&](const JsonField& field) { theta.set(field); })};
  read_foreign_config(rope, table, "no scaling of the rotary embedding", path + ": " + rope.name());
}

/// What the form itself says of its keys.
std::vector<ForeignKey> keys_of(const FileForm& form, ModelConfig& model) {
  const std::string architecture(form.architecture);
  std::vector<ForeignKey> table = {
      only_if("architectures", [=](const json& value) { return is_list_of(value, architecture); }),
      only("model_type", {std::string(form.model_type)})};
  for (const FileKey& key : form.keys) {
    table.push_back({.name = std::string(key.name), .is_required = key.is_required});
    if (key.is_read)
      table.back().read = [&](const JsonField& field) { set_field(model, key, field); };
  }
  for (const std::string_view name : form.ignored) table.push_back({.name = std::string(name)});
  return table;
}

std::vector<ForeignKey> constants_of(const FileForm& form) {
  std::vector<ForeignKey> table;
  for (const FileConstant& constant : form.constants)
    table.push_back(only(std::string(constant.name), {json::parse(constant.value)}));
  return table;
}

/// What other models with the same names of tensors compute otherwise, and the values with which
/// they would not.
std::vector<ForeignKey> keys_of_other_models() {
  return {
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
      only_if("layer_types", [](const json& value) { return is_list_of(value, "full_attention"); }),
      only("use_moe", {false}),
      only("num_experts", {0}),
      only("num_local_experts", {0}),
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
      only_if("quantization_config", is_w8a8),
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

bool has(const JsonField& config, std::string_view key) {
  return !key.empty() && !config[std::string(key)].is_null();
}

/// Whether the file names the form: by its model_type, or without one by its class.
bool names(const JsonField& config, const FileForm& form) {
  const json& type = config["model_type"].value();
  if (!type.is_null()) return type == std::string(form.model_type);
  const json& classes = config["architectures"].value();
  return !classes.empty() && is_list_of(classes, std::string(form.architecture));
}

struct Choice {
  const ModelFamily* family = nullptr;
  const FileForm* form = nullptr;
};

/// The form that the file has. Where one name stands for several, a form with a marker that is
/// there comes before one without. A file that names none of them is read as a Llama's, which says
/// what else it is.
Choice form_of(const JsonField& config) {
  const bool has_experts = config["use_moe"].value() == true;
  Choice plain, marked, llama;
  for (const ModelFamily* const family : model_families())
    for (const FileForm& form : family->forms) {
      if (form.architecture == "LlamaForCausalLM") llama = {family, &form};
      if (!names(config, form)) continue;
      if (form.marker.empty())
        plain = {family, &form};
      else if (has(config, form.marker) && (!form.has_experts || has_experts))
        marked = {family, &form};
    }
  return marked.form != nullptr ? marked : plain.form != nullptr ? plain : llama;
}

}  // namespace

ModelConfig read_hugging_face_config(const std::filesystem::path& path, bool ties_by_default) {
  const JsonDocument document = read_json_file(path, {.max_bytes = kMaxConfigBytes});
  const JsonField root = document.root();
  const Choice choice = form_of(root);
  ModelConfig model;
  model.generation = choice.family->generation;
  model.tie_embeddings = ties_by_default || !choice.family->may_untie;
  model.use_moe = choice.form->has_experts;
  if (!choice.family->may_share_experts) model.n_shared_experts = 0;
  RopeTheta theta;
  std::vector<ForeignKey> table = {
      reads("rope_theta", [&](const JsonField& field) { theta.set(field); })};
  for (const char* name : {"rope_scaling", "rope_parameters"})
    table.push_back(
        reads(name, [&](const JsonField& field) { read_rope(field, theta, path.string()); }));
  append(table, keys_of(*choice.form, model));
  append(table, keys_of_other_models());
  append(table, constants_of(*choice.form));
  append(table, keys_without_effect());
  read_foreign_config(root, table, kKnownModels, path.string());
  if (!theta.value()) root["rope_theta"].fail("must be a number");
  model.rope_theta = *theta.value();
  if (!has(root, "num_key_value_heads") && !has(root, "n_kv_heads"))
    model.n_kv_heads = model.n_heads;
  validate(model);
  return model;
}

bool has_int8_products(const std::filesystem::path& path) {
  const JsonDocument document = read_json_file(path, {.max_bytes = kMaxConfigBytes});
  return !document.root()["quantization_config"].is_null();
}

std::string hugging_face_config(const ModelConfig& model, const FileForm& form) {
  nlohmann::ordered_json config;
  config["architectures"] = nlohmann::ordered_json::array({form.architecture});
  config["model_type"] = form.model_type;
  ModelConfig whole = model;
  whole.head_dim = head_dim_of(model);
  whole.hidden_dim = hidden_dim_of(model);
  for (const FileKey& key : form.keys)
    std::visit([&](auto member) { config[std::string(key.name)] = whole.*member; }, key.field);
  config["rope_theta"] = model.rope_theta;
  for (const FileConstant& constant : form.constants)
    config[std::string(constant.name)] = nlohmann::ordered_json::parse(constant.value);
  return config.dump(2);
}

}  // namespace halftone
