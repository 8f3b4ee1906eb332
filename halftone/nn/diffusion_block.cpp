// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/diffusion_block.h"

#include <vector>

#include "halftone/core/error.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/nn/new_parameter.h"
#include "halftone/nn/recompute.h"

namespace halftone {

using torch::Tensor;

namespace {

MultiHeadAttention attention_of(const DiffusionBlockOptions& options, std::int64_t context_dim) {
  return MultiHeadAttention(MultiHeadAttentionOptions{.dim = options.dim,
                                                      .context_dim = context_dim,
                                                      .n_heads = options.n_heads,
                                                      .has_qk_norm = options.has_qk_norm,
                                                      .norm_eps = options.norm_eps});
}

}  // namespace

DiffusionBlockImpl::DiffusionBlockImpl(const DiffusionBlockOptions& options)
    : modulation(register_parameter("modulation", new_parameter({6, options.dim}).zero_())),
      norm_(register_module("norm", RmsNorm(options.dim, options.norm_eps))),
      attention_(register_module("attention", attention_of(options, /*context_dim=*/0))),
      cross_norm_(register_module("cross_norm", RmsNorm(options.dim, options.norm_eps))),
      cross_attention_(
          register_module("cross_attention", attention_of(options, options.context_dim))),
      ffn_norm_(register_module("ffn_norm", RmsNorm(options.dim, options.norm_eps))),
      ffn_(register_module("ffn", FeedForward(options.dim, options.hidden_dim, 0.0))) {}

Tensor DiffusionBlockImpl::forward(const Tensor& x, const Tensor& condition, const Tensor& context,
                                   const Tensor& lengths) {
  HALFTONE_CHECK(x.dim() == 3 && condition.sizes() == at::IntArrayRef({x.size(0), 6, x.size(2)}) &&
                     context.defined(),
                 "[diffusion_block] expected x (B, T, dim), condition (B, 6, dim) and a context, "
                 "got ",
                 x.sizes(), ", ", condition.sizes(), " and ", context.defined() ? "one" : "none");
  if (!compute_context().recompute_blocks) return computed(x, condition, context, lengths);
  const auto self = shared_from_this();  // until the backward pass
  const auto again = [this, self, lengths](const std::vector<Tensor>& in) {
    return std::vector<Tensor>{computed(in[0], in[1], in[2], lengths)};
  };
  return recompute(again, {x, condition, context}, parameters())[0];
}

Tensor DiffusionBlockImpl::computed(const Tensor& x, const Tensor& condition, const Tensor& context,
                                    const Tensor& lengths) {
  const std::vector<Tensor> m = (condition + modulation).unsqueeze(2).unbind(1);  // (B, 1, dim)
  const Tensor seen = attention_(torch::addcmul(m[0], norm_(x), 1 + m[1]));
  const NormedSum h = cross_norm_->add(torch::addcmul(x, seen, 1 + m[2]), {},
                                       cross_attention_->input_dtype(x, context));
  const NormedSum g = ffn_norm_->add(h.sum, cross_attention_(h.normed, context, lengths));
  return torch::addcmul(g.sum, ffn_(torch::addcmul(m[3], g.normed, 1 + m[4])), 1 + m[5]);
}

}  // namespace halftone
