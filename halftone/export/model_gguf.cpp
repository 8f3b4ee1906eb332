// SPDX-License-Identifier: Apache-2.0
#include "halftone/export/model_gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/export/gguf_experts.h"
#include "halftone/models/model_family.h"
#include "halftone/models/parameter_names.h"

namespace halftone {
namespace {

struct GgufNames {
  std::string_view gguf;
  std::string_view ours;
  std::string_view theirs;  // Hugging Face's
};
using GgufColumn = std::string_view GgufNames::*;

constexpr GgufNames kLayers{"blk.", "layers.", "model.layers."};
constexpr std::array<GgufNames, 3> kGgufOutside{
    {{"token_embd", "tok_embeddings", "model.embed_tokens"},
     {"output_norm", "norm", "model.norm"},
     {"output", "output", "lm_head"}}};
constexpr std::array<GgufNames, 12> kGgufInside{
    {{"attn_q", "attention.wq", "self_attn.q_proj"},
     {"attn_k", "attention.wk", "self_attn.k_proj"},
     {"attn_v", "attention.wv", "self_attn.v_proj"},
     {"attn_output", "attention.wo", "self_attn.o_proj"},
     {"attn_q_norm", "attention.q_norm", "self_attn.q_norm"},
     {"attn_k_norm", "attention.k_norm", "self_attn.k_norm"},
     {"attn_norm", "attention_norm", "input_layernorm"},
     {"ffn_norm", "ffn_norm", "post_attention_layernorm"},
     {"ffn_gate", "feed_forward.w1", "mlp.gate_proj"},
     {"ffn_down", "feed_forward.w2", "mlp.down_proj"},
     {"ffn_up", "feed_forward.w3", "mlp.up_proj"},
     {"ffn_gate_inp", "feed_forward.gate", "mlp.gate"}}};

template <std::size_t kSize>
std::string_view translated(const std::array<GgufNames, kSize>& table, std::string_view name,
                            GgufColumn from, GgufColumn to) {
  const auto found = std::find_if(table.begin(), table.end(),
                                  [&](const GgufNames& names) { return names.*from == name; });
  return found == table.end() ? std::string_view() : (*found).*to;
}

/// `name` of a parameter of column `from` in that of column `to`; as it is where it is unknown.
std::string translated(const std::string& name, GgufColumn from, GgufColumn to) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string::npos) return name;
  const std::string_view stem = std::string_view(name).substr(0, dot);
  const std::string_view suffix = std::string_view(name).substr(dot);  // ".weight"
  const std::string_view layers = kLayers.*from;
  if (!stem.starts_with(layers)) {
    const std::string_view other = translated(kGgufOutside, stem, from, to);
    return other.empty() ? name : fmt::format("{}{}", other, suffix);
  }
  const std::size_t end = stem.find('.', layers.size());
  if (end == std::string_view::npos) return name;
  const std::string_view number = stem.substr(layers.size(), end - layers.size());
  const std::string_view other = translated(kGgufInside, stem.substr(end + 1), from, to);
  return other.empty() ? name : fmt::format("{}{}.{}{}", kLayers.*to, number, other, suffix);
}

StateDict renamed(const StateDict& state, GgufColumn from, GgufColumn to) {
  StateDict result;
  for (const auto& [name, tensor] : state.tensors) {
    const std::string other = translated(name, from, to);
    result.tensors[other] = tensor;
    if (const auto read = state.lazy.find(name); read != state.lazy.end())
      result.lazy[other] = read->second;
  }
  return result;
}

constexpr const char* kWithExperts = "qwen3moe";

bool rotates_pairs(std::string_view architecture) { return architecture == "llama"; }

/// The keys of an architecture, "llama.block_count".
class ArchitectureKeys {
 public:
  ArchitectureKeys(const GgufMetadata& metadata, std::string architecture)
      : metadata_(metadata), architecture_(std::move(architecture)) {}

  std::string operator()(std::string_view name) const {
    return fmt::format("{}.{}", architecture_, name);
  }
  std::int64_t count(std::string_view name) const {
    const std::string key = (*this)(name);
    const std::int64_t value = metadata_.integer(key);
    if (value < 1 || value > std::numeric_limits<std::int32_t>::max())
      throw UserError(
          fmt::format("the metadata \"{}\" is {}, expected a positive integer", key, value));
    return value;
  }
  std::int64_t count(std::string_view name, std::int64_t otherwise) const {
    return metadata_.contains((*this)(name)) ? count(name) : otherwise;
  }
  double number(std::string_view name) const { return metadata_.number((*this)(name)); }

  /// Keys beside those that were read would change what is computed.
  void refuse_all_but(const std::vector<std::string_view>& known) const {
    for (const auto& entry : metadata_.values()) {
      const std::string_view key = entry.first;
      if (!key.starts_with(architecture_ + ".")) continue;
      const std::string_view name = key.substr(architecture_.size() + 1);
      if (std::find(known.begin(), known.end(), name) == known.end())
        throw UserError(fmt::format(
            "the metadata \"{}\" make it a model that is not supported; expected none of that name",
            key));
    }
  }

 private:
  const GgufMetadata& metadata_;
  std::string architecture_;
};

void read_experts(const ArchitectureKeys& keys, ModelConfig& model,
                  std::vector<std::string_view>& known) {
  model.use_moe = true;
  model.n_shared_experts = 0;
  model.n_routed_experts = keys.count("expert_count");
  model.num_experts_per_tok = keys.count("expert_used_count");
  for (const char* name : {"expert_count", "expert_used_count", "expert_feed_forward_length"})
    known.emplace_back(name);
}

}  // namespace

std::string gguf_architecture(const ModelConfig& config) {
  const ModelFamily& family = family_of(config);
  if (config.use_moe) {
    // llama.cpp divides the weights of the chosen experts by their sum, also where there is one.
    if (!family.has_qk_norm || !family.normalises_single_expert || config.n_shared_experts > 0)
      throw UserError(fmt::format(
          "{} with experts: llama.cpp computes no such model, expected experts as a Qwen3 has "
          "them; export it with --format safetensors",
          family.title));
    return kWithExperts;
  }
  if (family.has_qk_norm) return "qwen3";
  return family.has_qkv_bias ? "qwen2" : "llama";
}

void set_model_metadata(GgufMetadata& metadata, const ModelConfig& config) {
  const std::string architecture = gguf_architecture(config);
  const auto set = [&](std::string_view name, std::int64_t value) {
    metadata.set(fmt::format("{}.{}", architecture, name), static_cast<std::uint32_t>(value));
  };
  metadata.set("general.architecture", architecture);
  set("context_length", config.max_seq_len);
  set("embedding_length", config.dim);
  set("block_count", config.n_layers);
  set("feed_forward_length", hidden_dim_of(config));
  set("attention.head_count", config.n_heads);
  set("attention.head_count_kv", config.n_kv_heads);
  set("attention.key_length", head_dim_of(config));
  set("attention.value_length", head_dim_of(config));
  set("rope.dimension_count", head_dim_of(config));
  set("vocab_size", config.vocab_size);
  if (config.use_moe) {
    set("expert_count", config.n_routed_experts);
    set("expert_used_count", config.num_experts_per_tok);
    set("expert_feed_forward_length", hidden_dim_of(config));
  }
  metadata.set(architecture + ".attention.layer_norm_rms_epsilon",
               static_cast<float>(config.norm_eps));
  metadata.set(architecture + ".rope.freq_base", static_cast<float>(config.rope_theta));
}

ModelConfig model_of_gguf(const GgufMetadata& metadata, bool has_head) {
  const std::string& architecture = metadata.text("general.architecture");
  const bool has_experts = architecture == kWithExperts;
  if (architecture != "llama" && architecture != "qwen2" && architecture != "qwen3" && !has_experts)
    throw UserError(fmt::format("its architecture is {}, expected llama, qwen2, qwen3 or {}",
                                architecture, kWithExperts));
  const ArchitectureKeys keys(metadata, architecture);
  ModelConfig model{.generation = has_experts ? "qwen3" : architecture};
  model.dim = keys.count("embedding_length");
  model.n_layers = keys.count("block_count");
  model.n_heads = keys.count("attention.head_count");
  model.n_kv_heads = keys.count("attention.head_count_kv", model.n_heads);
  model.head_dim = keys.count("attention.key_length", model.dim / model.n_heads);
  model.hidden_dim = keys.count(has_experts ? "expert_feed_forward_length" : "feed_forward_length");
  model.max_seq_len = keys.count("context_length");
  model.vocab_size = static_cast<std::int64_t>(metadata.texts("tokenizer.ggml.tokens").size());
  model.norm_eps = keys.number("attention.layer_norm_rms_epsilon");
  model.rope_theta = keys.number("rope.freq_base");
  model.tie_embeddings = !has_head;
  const auto require = [&](std::string_view name, std::int64_t expected) {
    if (const std::int64_t value = keys.count(name, expected); value != expected)
      throw UserError(
          fmt::format("the metadata \"{}\" is {}, expected {}", keys(name), value, expected));
  };
  require("attention.value_length", model.head_dim);
  require("rope.dimension_count", model.head_dim);
  require("vocab_size", model.vocab_size);
  std::vector<std::string_view> known = {
      "embedding_length",        "block_count",          "attention.head_count",
      "attention.head_count_kv", "attention.key_length", "attention.value_length",
      "feed_forward_length",     "context_length",       "rope.freq_base",
      "rope.dimension_count",    "vocab_size",           "attention.layer_norm_rms_epsilon"};
  if (has_experts) read_experts(keys, model, known);
  keys.refuse_all_but(known);
  validate(model);
  return model;
}

StateDict to_gguf_names(const StateDict& parameters, const ModelConfig& config) {
  if (rotates_pairs(gguf_architecture(config)))
    return renamed(parameters, &GgufNames::ours, &GgufNames::gguf);
  StateDict named =
      renamed(to_hugging_face_names(parameters, config), &GgufNames::theirs, &GgufNames::gguf);
  stack_experts(named, config);
  return named;
}

StateDict from_gguf_names(const StateDict& file, const ModelConfig& config) {
  if (rotates_pairs(gguf_architecture(config)))
    return renamed(file, &GgufNames::gguf, &GgufNames::ours);
  StateDict named = renamed(file, &GgufNames::gguf, &GgufNames::theirs);
  unstack_experts(named, config);
  return named;
}

}  // namespace halftone
