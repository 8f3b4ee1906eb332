// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/model_config.h"

#include <fmt/format.h>

#include <limits>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/models/model_family.h"

namespace halftone {
namespace {

ModelConfig of_2504(ModelConfig config) {
  config.generation = "v2504";
  config.max_seq_len = 32768;
  return config;
}

ModelConfig of_v3(ModelConfig config) {
  config.generation = "v3";
  config.dim = 768;
  config.n_kv_heads = 4;
  config.max_seq_len = 32768;
  config.norm_eps = 1e-6;
  config.num_experts_per_tok = 1;
  config.n_shared_experts = 0;
  config.aux_loss_alpha = 5e-4;
  return config;
}

std::vector<std::pair<std::string, ModelConfig>> presets() {
  return {
      {"tiny", {.dim = 128, .n_layers = 4, .n_heads = 4, .n_kv_heads = 2, .max_seq_len = 2048}},
      {"minimind-26m", {}},
      {"minimind-104m", {.dim = 768, .n_layers = 16}},
      {"minimind-moe-145m", {.dim = 640, .n_layers = 8, .use_moe = true}},
      {"minimind-2504-26m", of_2504({})},
      {"minimind-2504-104m", of_2504({.dim = 768, .n_layers = 16})},
      {"minimind-2504-moe-145m", of_2504({.dim = 640, .n_layers = 8, .use_moe = true})},
      {"minimind3-64m", of_v3({})},
      {"minimind3-moe-198m", of_v3({.use_moe = true})},
      {"minimind-1b",
       {.dim = 2048, .n_layers = 20, .n_heads = 32, .n_kv_heads = 8, .hidden_dim = 6464}},
  };
}

void require(bool condition, const std::string& message) {
  if (!condition) throw UserError("model: " + message);
}

// Whatever is computed from such sizes fits in 64 bits, and what is listed from such counts fits in
// memory: a configuration may be a stranger's.
constexpr std::int64_t kMostOfAWidth = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMostLayers = 10'000;
constexpr std::int64_t kMostExperts = 100'000;  // of all layers
constexpr double kMostParameters = 1e15;

void require_from(std::int64_t least, std::string_view key, std::int64_t value,
                  std::int64_t most = kMostOfAWidth) {
  require(value >= least && value <= most,
          fmt::format("expected {} from {} to {}, got {}", key, least, most, value));
}

void validate_widths(const ModelConfig& config) {
  require_from(1, "dim", config.dim);
  require_from(1, "n_layers", config.n_layers, kMostLayers);
  require_from(1, "n_heads", config.n_heads);
  require_from(1, "n_kv_heads", config.n_kv_heads);
  require_from(1, "vocab_size", config.vocab_size);
  require_from(1, "max_seq_len", config.max_seq_len);
  require_from(0, "head_dim", config.head_dim);
  require_from(0, "hidden_dim", config.hidden_dim);
  require(config.n_heads % config.n_kv_heads == 0,
          fmt::format("expected n_heads to be a multiple of n_kv_heads, got {} and {}",
                      config.n_heads, config.n_kv_heads));
  require(config.head_dim > 0 || config.dim % config.n_heads == 0,
          fmt::format("expected dim to be a multiple of n_heads (or a head_dim), got {} and {}",
                      config.dim, config.n_heads));
  require(head_dim_of(config) % 2 == 0,
          fmt::format("expected an even head_dim (RoPE turns pairs), got {}", head_dim_of(config)));
}

void validate_numbers(const ModelConfig& config) {
  require(config.norm_eps > 0.0, fmt::format("expected norm_eps above 0, got {}", config.norm_eps));
  require(config.rope_theta > 0.0,
          fmt::format("expected rope_theta above 0, got {}", config.rope_theta));
  require(config.dropout >= 0.0 && config.dropout < 1.0,
          fmt::format("expected dropout from 0 to below 1, got {}", config.dropout));
}

void validate_experts(const ModelConfig& config) {
  require_from(1, "n_routed_experts", config.n_routed_experts, kMostExperts);
  require_from(0, "n_shared_experts", config.n_shared_experts, kMostExperts);
  require(config.n_layers * (config.n_routed_experts + config.n_shared_experts) <= kMostExperts,
          fmt::format("expected at most {} experts in all layers, got {} layers with {} each",
                      kMostExperts, config.n_layers,
                      config.n_routed_experts + config.n_shared_experts));
  require(config.num_experts_per_tok >= 1 && config.num_experts_per_tok <= config.n_routed_experts,
          fmt::format("expected num_experts_per_tok from 1 to n_routed_experts ({}), got {}",
                      config.n_routed_experts, config.num_experts_per_tok));
  const ModelFamily& family = family_of(config);
  require(family.may_have_experts,
          fmt::format("expected use_moe false, since {} has no experts", family.title));
  require(
      config.n_shared_experts == 0 || (config.n_shared_experts == 1 && family.may_share_experts),
      fmt::format("expected n_shared_experts {} for {}, got {}",
                  family.may_share_experts ? "0 or 1" : "0", family.title,
                  config.n_shared_experts));
  require(config.aux_loss_alpha >= 0.0,
          fmt::format("expected aux_loss_alpha of at least 0, got {}", config.aux_loss_alpha));
}

// In doubles: the exact count would overflow just where it matters.
void validate_size(const ModelConfig& config) {
  const auto dim = static_cast<double>(config.dim);
  const auto heads = static_cast<double>(config.n_heads + config.n_kv_heads);
  const double experts = config.use_moe ? static_cast<double>(config.n_routed_experts + 1) : 1.0;
  const double layer = dim * (2.0 * heads * static_cast<double>(head_dim_of(config)) +
                              3.0 * experts * static_cast<double>(hidden_dim_of(config)));
  const double matrices = config.tie_embeddings ? 1.0 : 2.0;
  const double parameters = matrices * dim * static_cast<double>(config.vocab_size) +
                            static_cast<double>(config.n_layers) * layer;
  require(parameters <= kMostParameters,
          fmt::format("expected at most {:g} parameters, got {:.3g}; make it smaller",
                      kMostParameters, parameters));
}

void add_feed_forward(const std::string& path, const ModelConfig& config,
                      std::vector<NamedShape>& shapes) {
  const std::int64_t hidden = hidden_dim_of(config);
  shapes.push_back({path + ".w1.weight", {hidden, config.dim}});
  shapes.push_back({path + ".w3.weight", {hidden, config.dim}});
  shapes.push_back({path + ".w2.weight", {config.dim, hidden}});
}

void add_experts(const std::string& path, const ModelConfig& config,
                 std::vector<NamedShape>& shapes) {
  for (std::int64_t i = 0; i < config.n_routed_experts; ++i)
    add_feed_forward(fmt::format("{}.experts.{}", path, i), config, shapes);
  shapes.push_back({path + ".gate.weight", {config.n_routed_experts, config.dim}});
  if (config.n_shared_experts > 0) add_feed_forward(path + ".shared_experts", config, shapes);
}

void add_layer(const std::string& path, const ModelConfig& config,
               std::vector<NamedShape>& shapes) {
  const std::int64_t query = config.n_heads * head_dim_of(config);
  const std::int64_t key = config.n_kv_heads * head_dim_of(config);
  const ModelFamily& family = family_of(config);
  const auto add = [&](const std::string& name, std::vector<std::int64_t> sizes) {
    shapes.push_back({path + ".attention." + name, std::move(sizes)});
  };
  for (const auto& [name, rows] : {std::pair("wq", query), {"wk", key}, {"wv", key}}) {
    add(fmt::format("{}.weight", name), {rows, config.dim});
    if (family.has_qkv_bias) add(fmt::format("{}.bias", name), {rows});
  }
  add("wo.weight", {config.dim, query});
  if (family.has_qk_norm)
    for (const char* name : {"q_norm.weight", "k_norm.weight"}) add(name, {head_dim_of(config)});
  shapes.push_back({path + ".attention_norm.weight", {config.dim}});
  shapes.push_back({path + ".ffn_norm.weight", {config.dim}});
  if (config.use_moe)
    add_experts(path + ".feed_forward", config, shapes);
  else
    add_feed_forward(path + ".feed_forward", config, shapes);
}

}  // namespace

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const auto& [name, config] : presets()) names.push_back(name);
  return names;
}

ModelConfig preset_config(std::string_view name) {
  for (const auto& [known, config] : presets())
    if (known == name) return config;
  const std::string list = fmt::format("{}", fmt::join(preset_names(), ", "));
  const auto near = nearest_match(name, preset_names());
  throw UserError(fmt::format("expected a preset ({}), got '{}'{}", list, name,
                              near ? fmt::format("; did you mean '{}'?", *near) : ""));
}

void validate(const ModelConfig& config) {
  const ModelFamily& family = family_of(config);
  validate_widths(config);
  require(
      config.tie_embeddings || family.may_untie,
      fmt::format("expected tie_embeddings true, since {} has one matrix for embedding and head",
                  family.title));
  validate_numbers(config);
  if (config.use_moe) validate_experts(config);
  validate_size(config);
}

std::int64_t head_dim_of(const ModelConfig& config) {
  return config.head_dim > 0 ? config.head_dim : config.dim / config.n_heads;
}

std::int64_t hidden_dim_of(const ModelConfig& config) {
  return config.hidden_dim > 0 ? config.hidden_dim : family_of(config).hidden_dim(config.dim);
}

std::string head_path(const ModelConfig& config) {
  return config.tie_embeddings ? "tok_embeddings" : "output";
}

std::int64_t parameter_count(const ModelConfig& config) {
  const ModelFamily& family = family_of(config);
  const std::int64_t head_dim = head_dim_of(config);
  const std::int64_t heads = config.n_heads + 2 * config.n_kv_heads;
  const std::int64_t attention = config.dim * head_dim * (config.n_heads + heads) +
                                 (family.has_qkv_bias ? heads * head_dim : 0) +
                                 (family.has_qk_norm ? 2 * head_dim : 0);
  const std::int64_t expert = 3 * config.dim * hidden_dim_of(config);
  const std::int64_t experts =
      config.use_moe ? config.n_routed_experts + config.n_shared_experts : 1;
  const std::int64_t router = config.use_moe ? config.n_routed_experts * config.dim : 0;
  const std::int64_t layer = attention + experts * expert + router + 2 * config.dim;
  const std::int64_t matrices = config.tie_embeddings ? 1 : 2;
  return matrices * config.vocab_size * config.dim + config.n_layers * layer + config.dim;
}

std::vector<NamedShape> parameter_shapes(const ModelConfig& config) {
  std::vector<NamedShape> shapes{{"tok_embeddings.weight", {config.vocab_size, config.dim}}};
  for (std::int64_t i = 0; i < config.n_layers; ++i)
    add_layer(fmt::format("layers.{}", i), config, shapes);
  shapes.push_back({"norm.weight", {config.dim}});
  if (!config.tie_embeddings) shapes.push_back({"output.weight", {config.vocab_size, config.dim}});
  return shapes;
}

}  // namespace halftone
