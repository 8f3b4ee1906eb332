// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace halftone {

/// The shape of a model. Field names are the keys of the configuration file.
struct ModelConfig {
  std::string generation = "v2";  // a family of models/model_family.h
  std::int64_t dim = 512;
  std::int64_t n_layers = 8;
  std::int64_t n_heads = 8;
  std::int64_t n_kv_heads = 2;
  std::int64_t head_dim = 0;    // 0: dim / n_heads
  std::int64_t hidden_dim = 0;  // 0: by the rule of the family; of each expert, if any
  std::int64_t vocab_size = 6400;
  std::int64_t max_seq_len = 8192;  // positions the model accepts
  double norm_eps = 1e-5;
  double rope_theta = 1e6;
  double dropout = 0.0;
  bool tie_embeddings = true;  // one matrix for embedding and output head
  bool use_moe = false;
  std::int64_t n_routed_experts = 4;
  std::int64_t num_experts_per_tok = 2;
  std::int64_t n_shared_experts = 1;
  double aux_loss_alpha = 0.1;

  bool operator==(const ModelConfig&) const = default;
};

/// The configuration called `name`; throws UserError, naming the nearest one, when there is none.
ModelConfig preset_config(std::string_view name);
std::vector<std::string> preset_names();

/// Throws UserError naming the first field that makes no model.
void validate(const ModelConfig& config);

/// The two derived widths, with the rules for 0 applied.
std::int64_t head_dim_of(const ModelConfig& config);
std::int64_t hidden_dim_of(const ModelConfig& config);

/// Path of the module that the output head's matrix belongs to.
std::string head_path(const ModelConfig& config);

/// Trainable numbers, a matrix shared by embedding and head counted once; builds nothing.
std::int64_t parameter_count(const ModelConfig& config);

struct NamedShape {
  std::string name;  // "layers.0.attention.wq.weight"
  std::vector<std::int64_t> sizes;
  bool operator==(const NamedShape&) const = default;
};

/// The named_parameters() of the model, in their order. Builds nothing.
std::vector<NamedShape> parameter_shapes(const ModelConfig& config);

}  // namespace halftone
