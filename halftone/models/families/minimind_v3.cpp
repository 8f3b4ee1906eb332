// SPDX-License-Identifier: Apache-2.0
// MiniMind, generation V3 (2026-03): Qwen3's layers, with experts Qwen3-MoE's.
#include <cmath>
#include <numbers>

#include "halftone/models/families/families_impl.h"

namespace halftone {
namespace {

std::int64_t pi_times(std::int64_t dim) {
  constexpr double kMultiple = 64;
  return static_cast<std::int64_t>(
      kMultiple * std::ceil(static_cast<double>(dim) * std::numbers::pi / kMultiple));
}

std::vector<FileConstant> constants() {
  return {{"hidden_act", "\"silu\""}, {"norm_topk_prob", "true"}};
}

FileForm dense_form() {
  return {.architecture = "MiniMindForCausalLM",
          .model_type = "minimind",
          .marker = "num_experts",
          .keys = llama_keys_and({{.name = "use_moe", .field = &ModelConfig::use_moe}}),
          .constants = constants(),
          .ignored = {"num_experts", "num_experts_per_tok", "moe_intermediate_size",
                      "router_aux_loss_coef"}};
}

FileForm form_with_experts() {
  using M = ModelConfig;
  return {
      .architecture = "MiniMindForCausalLM",
      .model_type = "minimind",
      .has_experts = true,
      .marker = "num_experts",
      .keys = llama_keys_and(
          {{.name = "use_moe", .field = &M::use_moe},
           {.name = "num_experts", .field = &M::n_routed_experts, .is_required = true},
           {.name = "num_experts_per_tok", .field = &M::num_experts_per_tok, .is_required = true},
           {.name = "router_aux_loss_coef", .field = &M::aux_loss_alpha}},
          "moe_intermediate_size"),
      .constants = constants(),
      .ignored = {"intermediate_size"}};
}

}  // namespace

const ModelFamily& minimind_v3_family() {
  static const ModelFamily family{
      .generation = "v3",
      .title = "a MiniMind of generation V3",
      .has_qk_norm = true,
      .may_untie = true,
      .hidden_dim = pi_times,
      .may_have_experts = true,
      .normalises_single_expert = true,
      .balance = LoadBalance::kTokens,
      .forms = {dense_form(), form_with_experts()},
      .exports_as = "Qwen3ForCausalLM",
      .exports_experts_as = "Qwen3MoeForCausalLM",
  };
  return family;
}

}  // namespace halftone
