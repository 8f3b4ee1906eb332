// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/families/families_impl.h"

namespace halftone {
namespace {

// The window's keys stand in files that do not use it.
const std::vector<FileConstant>& qwen_constants() {
  static const std::vector<FileConstant> constants{{"hidden_act", "\"silu\""},
                                                   {"use_sliding_window", "false"}};
  return constants;
}

std::vector<FileConstant> with(std::vector<FileConstant> more) {
  more.insert(more.begin(), qwen_constants().begin(), qwen_constants().end());
  return more;
}

FileForm qwen3_dense() {
  return {.architecture = "Qwen3ForCausalLM",
          .model_type = "qwen3",
          .keys = llama_keys(),
          .constants = with({{"attention_bias", "false"}}),
          .ignored = {"sliding_window"}};
}

FileForm qwen3_with_experts() {
  using M = ModelConfig;
  return {
      .architecture = "Qwen3MoeForCausalLM",
      .model_type = "qwen3_moe",
      .has_experts = true,
      .keys = llama_keys_and(
          {{.name = "intermediate_size", .field = &M::hidden_dim, .is_read = false},
           {.name = "num_experts", .field = &M::n_routed_experts},
           {.name = "num_local_experts", .field = &M::n_routed_experts},
           {.name = "num_experts_per_tok", .field = &M::num_experts_per_tok, .is_required = true},
           {.name = "router_aux_loss_coef", .field = &M::aux_loss_alpha}},
          "moe_intermediate_size"),
      .constants = with({{"attention_bias", "false"},
                         {"norm_topk_prob", "true"},
                         {"decoder_sparse_step", "1"},
                         {"mlp_only_layers", "[]"}}),
      .ignored = {"sliding_window", "output_router_logits"}};
}

}  // namespace

const ModelFamily& qwen2_family() {
  static const ModelFamily family{
      .generation = "qwen2",
      .title = "a Qwen2",
      .has_qkv_bias = true,
      .may_untie = true,
      .hidden_dim = eight_thirds,
      .forms = {{.architecture = "Qwen2ForCausalLM",
                 .model_type = "qwen2",
                 .keys = llama_keys(),
                 .constants = qwen_constants(),
                 .ignored = {"sliding_window"}}},
      .exports_as = "Qwen2ForCausalLM",
  };
  return family;
}

const ModelFamily& qwen3_family() {
  static const ModelFamily family{
      .generation = "qwen3",
      .title = "a Qwen3",
      .has_qk_norm = true,
      .may_untie = true,
      .hidden_dim = eight_thirds,
      .may_have_experts = true,
      .normalises_single_expert = true,
      .balance = LoadBalance::kTokens,
      .forms = {qwen3_dense(), qwen3_with_experts()},
      .exports_as = "Qwen3ForCausalLM",
      .exports_experts_as = "Qwen3MoeForCausalLM",
  };
  return family;
}

}  // namespace halftone
