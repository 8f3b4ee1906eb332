// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>

#include "halftone/models/model_config.h"

namespace halftone::test {

/// The model of a golden of make_minimind_golden.py, from the configuration in its metadata.
inline ModelConfig golden_model_config(const nlohmann::json& json) {
  ModelConfig config;
  config.generation = json.value("generation", "v2");
  config.dim = json["dim"];
  config.n_layers = json["n_layers"];
  config.n_heads = json["n_heads"];
  config.n_kv_heads = json["n_kv_heads"];
  config.head_dim = json.value("head_dim", 0);
  config.hidden_dim = json["hidden_dim"];
  config.vocab_size = json["vocab_size"];
  config.max_seq_len = json["max_seq_len"];
  config.norm_eps = json["norm_eps"];
  config.use_moe = json["use_moe"];
  if (!config.use_moe) return config;
  config.num_experts_per_tok = json["num_experts_per_tok"];
  config.n_shared_experts = json["n_shared_experts"];
  config.aux_loss_alpha = json["aux_loss_alpha"];
  return config;
}

}  // namespace halftone::test
