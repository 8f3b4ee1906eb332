// SPDX-License-Identifier: Apache-2.0
// MiniMind, generation V2 (github.com/jingyaogong/minimind, 2025-02).
#include "halftone/models/families/families_impl.h"

namespace halftone {
namespace {

/// As save_pretrained() wrote an LMConfig.
FileForm form_of_v2() {
  using M = ModelConfig;
  return {.architecture = "CausalLM",
          .model_type = "minimind",
          .marker = "n_layers",
          .keys = {{.name = "dim", .field = &M::dim, .is_required = true},
                   {.name = "n_layers", .field = &M::n_layers, .is_required = true},
                   {.name = "n_heads", .field = &M::n_heads, .is_required = true},
                   {.name = "n_kv_heads", .field = &M::n_kv_heads},
                   {.name = "hidden_dim", .field = &M::hidden_dim},
                   {.name = "vocab_size", .field = &M::vocab_size, .is_required = true},
                   {.name = "max_seq_len", .field = &M::max_seq_len, .is_required = true},
                   {.name = "norm_eps", .field = &M::norm_eps, .is_required = true},
                   {.name = "use_moe", .field = &M::use_moe},
                   {.name = "n_routed_experts", .field = &M::n_routed_experts},
                   {.name = "num_experts_per_tok", .field = &M::num_experts_per_tok},
                   {.name = "aux_loss_alpha", .field = &M::aux_loss_alpha}},
          .constants = {{"multiple_of", "64"},
                        {"scoring_func", "\"softmax\""},
                        {"norm_topk_prob", "true"},
                        // The class holds one shared expert, and says so with a truth value.
                        {"n_shared_experts", "true"},
                        {"tie_word_embeddings", "true"}}};
}

}  // namespace

const ModelFamily& minimind_v2_family() {
  static const ModelFamily family{
      .generation = "v2",
      .title = "a MiniMind of generation V2",
      .hidden_dim = eight_thirds,
      .may_have_experts = true,
      .may_share_experts = true,
      .forms = {form_of_v2()},
      .exports_as = "LlamaForCausalLM",
  };
  return family;
}

}  // namespace halftone
