// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/decoder_layer.h"

#include <vector>

#include "halftone/core/module_scope.h"
#include "halftone/models/model_family.h"
#include "halftone/nn/recompute.h"

namespace halftone {

using torch::Tensor;

DecoderLayerImpl::DecoderLayerImpl(const ModelConfig& config) {
  const ModelFamily& family = family_of(config);
  attention_ = register_module("attention", Attention(AttentionOptions{
                                                .dim = config.dim,
                                                .n_heads = config.n_heads,
                                                .n_kv_heads = config.n_kv_heads,
                                                .head_dim = head_dim_of(config),
                                                .has_qkv_bias = family.has_qkv_bias,
                                                .has_qk_norm = family.has_qk_norm,
                                                .norm_eps = config.norm_eps,
                                                .dropout = config.dropout,
                                            }));
  attention_norm_ = register_module("attention_norm", RmsNorm(config.dim, config.norm_eps));
  ffn_norm_ = register_module("ffn_norm", RmsNorm(config.dim, config.norm_eps));
  if (config.use_moe) {
    const MoeOptions options{
        .dim = config.dim,
        .hidden_dim = hidden_dim_of(config),
        .n_routed_experts = config.n_routed_experts,
        .num_experts_per_tok = config.num_experts_per_tok,
        .shared_expert = config.n_shared_experts > 0,
        .normalises_single_expert = family.normalises_single_expert,
        .balance = family.balance,
        .aux_loss_alpha = config.aux_loss_alpha,
        .dropout = config.dropout,
    };
    experts_ = register_module("feed_forward", MoeFeedForward(options));
  } else {
    dense_ = register_module("feed_forward",
                             FeedForward(config.dim, hidden_dim_of(config), config.dropout));
  }
}

LayerOutput DecoderLayerImpl::forward(const LayerOutput& before, const Tensor& rotations,
                                      CacheSlot slot) {
  const ModuleScope scope(*this);
  const Tensor& x = before.x;
  const NormedSum in = attention_norm_->add(x, before.branch, attention_->input_dtype(x));
  const Tensor attended = attention_->forward(in.normed, rotations, slot);
  if (dense_) {
    const NormedSum h = ffn_norm_->add(in.sum, attended, dense_->input_dtype(in.sum));
    return {h.sum, dense_(h.normed), {}};
  }
  const NormedSum h = ffn_norm_->add(in.sum, attended);
  const MoeOutput out = experts_(h.normed);
  return {h.sum, out.y, out.aux_loss};
}

LayerOutput recompute(const std::shared_ptr<DecoderLayerImpl>& layer, const LayerOutput& before,
                      const Tensor& rotations) {
  // A block's input is all that is kept of it: the sum, not its two terms.
  const auto block = [layer, rotations](const std::vector<Tensor>& in) {
    const LayerOutput out = layer->forward({.x = in[0]}, rotations, {});
    std::vector<Tensor> results{out.x + out.branch};
    if (out.aux_loss.defined()) results.push_back(out.aux_loss);
    return results;
  };
  const Tensor input = before.branch.defined() ? before.x + before.branch : before.x;
  const std::vector<Tensor> out = recompute(block, {input}, layer->parameters());
  return {.x = out[0], .aux_loss = out.size() > 1 ? out[1] : Tensor()};
}

}  // namespace halftone
