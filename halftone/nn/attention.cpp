// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/attention.h"

#include <ATen/ops/dropout.h>

#include <tuple>

#include "halftone/core/keep_fp32.h"
#include "halftone/kernels/attention.h"
#include "halftone/kernels/linear.h"
#include "halftone/nn/rope.h"

namespace halftone {

using torch::Tensor;

AttentionImpl::AttentionImpl(const AttentionOptions& options) : options_(options) {
  const std::int64_t query = options.n_heads * options.head_dim;
  const std::int64_t key = options.n_kv_heads * options.head_dim;
  wq_ = register_module("wq", Linear(options.dim, query));
  wk_ = register_module("wk", Linear(options.dim, key));
  wv_ = register_module("wv", Linear(options.dim, key));
  wo_ = register_module("wo", Linear(query, options.dim));
}

Tensor AttentionImpl::forward(const Tensor& x, const Tensor& rotations, CacheSlot slot) {
  const auto heads = [&](const Tensor& t) { return t.unflatten(-1, {-1, options_.head_dim}); };
  const std::vector<Tensor> qkv = linear_group(x, {wq_->weight, wk_->weight, wv_->weight});
  const Tensor query = apply_rope(heads(qkv[0]), rotations).transpose(1, 2);  // (B, H, T, d)
  Tensor key = apply_rope(heads(qkv[1]), rotations).transpose(1, 2);          // (B, K, T, d)
  Tensor value = heads(qkv[2]).transpose(1, 2);
  if (slot.cache != nullptr) std::tie(key, value) = slot.cache->append(slot.layer, key, value);
  const double dropout = is_training() ? options_.dropout : 0.0;
  const auto scores_and_mix = [&] {
    const KeepFp32Scope scope(wq_->weight);
    return causal_attention(query, key, value, dropout);
  };
  const Tensor out = wo_(scores_and_mix().transpose(1, 2).flatten(2));
  return dropout > 0.0 ? at::dropout(out, dropout, /*train=*/true) : out;
}

}  // namespace halftone
