// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/utils.h>

#include <cstdint>

#include "halftone/models/causal_lm.h"

namespace halftone::test {

/// A MiniMind of so many narrow layers, whose weights are the same each time.
inline CausalLM narrow_model(std::int64_t layers, bool moe = false) {
  torch::manual_seed(5);
  return CausalLM(ModelConfig{.dim = 64,
                              .n_layers = layers,
                              .n_heads = 4,
                              .n_kv_heads = 2,
                              .hidden_dim = 96,
                              .vocab_size = 120,
                              .max_seq_len = 64,
                              .use_moe = moe});
}

}  // namespace halftone::test
