// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/encoder_block.h"

#include <vector>

#include "halftone/kernels/linear/compute_context.h"
#include "halftone/nn/recompute.h"

namespace halftone {

using torch::Tensor;

EncoderBlockImpl::EncoderBlockImpl(const EncoderBlockOptions& options)
    : attention_norm_(register_module("attention_norm", RmsNorm(options.dim, options.norm_eps))),
      attention_(register_module("attention", MultiHeadAttention(MultiHeadAttentionOptions{
                                                  .dim = options.dim,
                                                  .n_heads = options.n_heads,
                                                  .has_qk_norm = options.has_qk_norm,
                                                  .norm_eps = options.norm_eps}))),
      ffn_norm_(register_module("ffn_norm", RmsNorm(options.dim, options.norm_eps))),
      ffn_(register_module("ffn", FeedForward(options.dim, options.hidden_dim, 0.0))) {}

Tensor EncoderBlockImpl::forward(const Tensor& x, const Tensor& lengths) {
  if (!compute_context().recompute_blocks) return computed(x, lengths);
  const auto self = shared_from_this();  // until the backward pass
  const auto again = [this, self, lengths](const std::vector<Tensor>& in) {
    return std::vector<Tensor>{computed(in[0], lengths)};
  };
  return recompute(again, {x}, parameters())[0];
}

Tensor EncoderBlockImpl::computed(const Tensor& x, const Tensor& lengths) {
  const NormedSum seen = attention_norm_->add(x, {}, attention_->input_dtype(x));
  const NormedSum h = ffn_norm_->add(seen.sum, attention_(seen.normed, Tensor(), lengths),
                                     ffn_->input_dtype(seen.sum));
  return h.sum + ffn_(h.normed);
}

}  // namespace halftone
