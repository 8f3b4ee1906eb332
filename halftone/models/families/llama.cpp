// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/families/families_impl.h"

namespace halftone {

std::int64_t eight_thirds(std::int64_t dim) {
  constexpr std::int64_t kMultiple = 64;
  return (8 * dim / 3 + kMultiple - 1) / kMultiple * kMultiple;
}

std::vector<FileKey> llama_keys(std::string_view hidden_key) {
  using M = ModelConfig;
  return {
      {.name = "hidden_size", .field = &M::dim, .is_required = true},
      {.name = "num_hidden_layers", .field = &M::n_layers, .is_required = true},
      {.name = "num_attention_heads", .field = &M::n_heads, .is_required = true},
      {.name = "num_key_value_heads", .field = &M::n_kv_heads},
      {.name = "head_dim", .field = &M::head_dim},
      {.name = hidden_key, .field = &M::hidden_dim, .is_required = true},
      {.name = "vocab_size", .field = &M::vocab_size, .is_required = true},
      {.name = "max_position_embeddings", .field = &M::max_seq_len, .is_required = true},
      {.name = "rms_norm_eps", .field = &M::norm_eps, .is_required = true},
      {.name = "tie_word_embeddings", .field = &M::tie_embeddings},
  };
}

std::vector<FileKey> llama_keys_and(const std::vector<FileKey>& more, std::string_view hidden_key) {
  std::vector<FileKey> keys = llama_keys(hidden_key);
  keys.insert(keys.end(), more.begin(), more.end());
  return keys;
}

const ModelFamily& llama_family() {
  static const ModelFamily family{
      .generation = "llama",
      .title = "a Llama",
      .may_untie = true,
      .hidden_dim = eight_thirds,
      .forms = {{.architecture = "LlamaForCausalLM",
                 .model_type = "llama",
                 .keys = llama_keys(),
                 .constants = {{"hidden_act", "\"silu\""},
                               {"attention_bias", "false"},
                               {"mlp_bias", "false"}}}},
      .exports_as = "LlamaForCausalLM",
  };
  return family;
}

}  // namespace halftone
