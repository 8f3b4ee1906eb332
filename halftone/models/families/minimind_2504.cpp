// SPDX-License-Identifier: Apache-2.0
// MiniMind since 2025-04: V2's mathematics in Llama's names.
#include "halftone/models/families/families_impl.h"

namespace halftone {
namespace {

FileForm form_of_2504() {
  using M = ModelConfig;
  return {
      .architecture = "MiniMindForCausalLM",
      .model_type = "minimind",
      .keys =
          llama_keys_and({{.name = "use_moe", .field = &M::use_moe},
                          {.name = "n_routed_experts", .field = &M::n_routed_experts},
                          {.name = "num_experts_per_tok", .field = &M::num_experts_per_tok},
                          {.name = "n_shared_experts", .field = &M::n_shared_experts, .least = 0},
                          {.name = "aux_loss_alpha", .field = &M::aux_loss_alpha}}),
      .constants = {
          {"hidden_act", "\"silu\""}, {"scoring_func", "\"softmax\""}, {"norm_topk_prob", "true"}}};
}

}  // namespace

const ModelFamily& minimind_2504_family() {
  static const ModelFamily family{
      .generation = "v2504",
      .title = "a MiniMind of generation 2504",
      .hidden_dim = eight_thirds,
      .may_have_experts = true,
      .may_share_experts = true,
      .forms = {form_of_2504()},
      .exports_as = "LlamaForCausalLM",
  };
  return family;
}

}  // namespace halftone
