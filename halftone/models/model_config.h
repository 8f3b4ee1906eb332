// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace halftone {

struct ModelConfig {
  std::string generation = "v2";
  std::int64_t dim = 512, n_layers = 8, n_heads = 8, n_kv_heads = 2, head_dim = 0, hidden_dim = 0,
               vocab_size = 6400, max_seq_len = 8192;
  double norm_eps = 1e-5, rope_theta = 1e6, dropout = 0.0;
  bool use_moe = false;
  std::int64_t n_routed_experts = 4, num_experts_per_tok = 2, n_shared_experts = 1;
  double aux_loss_alpha = 0.1;
};

ModelConfig preset_config(std::string_view name);

}  // namespace halftone
