// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/attention.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/dropout.h>

#include <vector>

#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/module_scope.h"
#include "halftone/kernels/attention/attention.h"
#include "halftone/kernels/attention/document_attention.h"
#include "halftone/kernels/attention/rope.h"
#include "halftone/kernels/attention/rotary_attention.h"
#include "halftone/kernels/linear/linear.h"

namespace halftone {

using torch::Tensor;

AttentionImpl::AttentionImpl(const AttentionOptions& options) : options_(options) {
  const std::int64_t query = options.n_heads * options.head_dim;
  const std::int64_t key = options.n_kv_heads * options.head_dim;
  wq_ = register_module("wq", Linear(options.dim, query, options.has_qkv_bias));
  wk_ = register_module("wk", Linear(options.dim, key, options.has_qkv_bias));
  wv_ = register_module("wv", Linear(options.dim, key, options.has_qkv_bias));
  wo_ = register_module("wo", Linear(query, options.dim));
  if (!options.has_qk_norm) return;
  q_norm_ = register_module("q_norm", RmsNorm(options.head_dim, options.norm_eps));
  k_norm_ = register_module("k_norm", RmsNorm(options.head_dim, options.norm_eps));
}

std::vector<Tensor> AttentionImpl::heads_of(const Tensor& qkv) const {
  return qkv.unflatten(-1, {-1, options_.head_dim})
      .split_with_sizes({options_.n_heads, options_.n_kv_heads, options_.n_kv_heads}, 2);
}

/// Rounded once, behind the weight: what comes out has the dtype of what went in.
Tensor AttentionImpl::norm_heads(const Tensor& qkv) {
  const std::vector<Tensor> parts = heads_of(qkv);
  const auto normed = [&](RmsNorm& norm, const Tensor& part) {
    return norm->add(upcast(part), {}, qkv.scalar_type()).normed.to(qkv.scalar_type());
  };
  return at::cat({normed(q_norm_, parts[0]), normed(k_norm_, parts[1]), parts[2]}, 2).flatten(2);
}

Tensor AttentionImpl::project(const Tensor& x) {
  Tensor qkv =
      with_adapters(merged_linear(x, {wq_->weight, wk_->weight, wv_->weight}), x, input_layers());
  if (options_.has_qkv_bias)
    qkv = qkv + at::cat({wq_->bias, wk_->bias, wv_->bias}).to(qkv.scalar_type());
  return options_.has_qk_norm ? norm_heads(qkv) : qkv;
}

Tensor AttentionImpl::cached(const Tensor& qkv, const Tensor& rotations, const CacheSlot& slot) {
  const std::vector<Tensor> parts = heads_of(qkv);
  const Tensor query = apply_rope(parts[0], rotations).transpose(1, 2);  // (B, H, T, d)
  const Tensor key = apply_rope(parts[1], rotations).transpose(1, 2);    // (B, K, T, d)
  const auto [keys, values] = slot.cache->append(slot.layer, key, parts[2].transpose(1, 2));
  return causal_attention(query, keys, values).transpose(1, 2).flatten(2);
}

/// Each sequence of the batch attends to its own positions, as it would alone.
Tensor AttentionImpl::cached_rows(const Tensor& qkv, const Tensor& rotations,
                                  const CacheSlot& slot) {
  const std::vector<KvCache*>& rows = slot.cache->rows();
  const std::int64_t steps = qkv.size(1);
  std::vector<Tensor> outputs;
  for (std::size_t b = 0; b < rows.size(); ++b) {
    const auto row = static_cast<std::int64_t>(b);
    outputs.push_back(cached(qkv.narrow(0, row, 1), rotations.narrow(0, row * steps, steps),
                             {rows[b], slot.layer}));
  }
  return at::cat(outputs);
}

Tensor AttentionImpl::mixed(const Tensor& qkv, const Tensor& rotations, const CacheSlot& slot) {
  const KeepFp32Scope scope(wq_->weight);
  const HeadCounts counts{options_.n_heads, options_.n_kv_heads};
  if (slot.cache != nullptr)
    return slot.cache->rows().empty() ? cached(qkv, rotations, slot)
                                      : cached_rows(qkv, rotations, slot);
  const double dropout = is_training() ? options_.dropout : 0.0;
  return attend_documents(qkv, rotations, [&](const Tensor& document, const Tensor& positions) {
    return dropout > 0.0 ? rotary_attention_reference(document, positions, counts, dropout)
                         : rotary_attention(document, positions, counts);
  });
}

Tensor AttentionImpl::forward(const Tensor& x, const Tensor& rotations, CacheSlot slot) {
  const ModuleScope scope(*this);
  const Tensor out = wo_(mixed(project(x), rotations, slot));
  return is_training() && options_.dropout > 0.0
             ? at::dropout(out, options_.dropout, /*train=*/true)
             : out;
}

torch::ScalarType AttentionImpl::input_dtype(const Tensor& x) const {
  return halftone::input_dtype(x, input_weights(input_layers()));
}

}  // namespace halftone
