// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/multi_head_attention.h"

#include <ATen/ops/cat.h>
#include <fmt/format.h>

#include <vector>

#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/error.h"
#include "halftone/core/module_scope.h"
#include "halftone/kernels/attention/attention.h"
#include "halftone/kernels/linear/linear.h"

namespace halftone {
namespace {

using torch::Tensor;

MultiHeadAttentionOptions completed(MultiHeadAttentionOptions options) {
  if (options.dim < 1 || options.n_heads < 1 || options.n_kv_heads < 0 || options.context_dim < 0 ||
      options.head_dim < 0)
    throw UserError(
        fmt::format("MultiHeadAttention: expected dim and n_heads from 1, got {} and {}",
                    options.dim, options.n_heads));
  if (options.context_dim == 0) options.context_dim = options.dim;
  if (options.n_kv_heads == 0) options.n_kv_heads = options.n_heads;
  if (options.n_heads % options.n_kv_heads != 0 ||
      (options.head_dim == 0 && options.dim % options.n_heads != 0))
    throw UserError(fmt::format(
        "MultiHeadAttention: expected n_heads that divide dim and a multiple of n_kv_heads, got "
        "dim {}, {} heads and {} heads of keys; set head_dim where heads do not divide dim",
        options.dim, options.n_heads, options.n_kv_heads));
  if (options.head_dim == 0) options.head_dim = options.dim / options.n_heads;
  return options;
}

/// The projections of one input by `layers`, as one matmul.
std::vector<Tensor> projected(const Tensor& x, const std::vector<const LinearImpl*>& layers) {
  std::vector<Tensor> weights, biases;
  std::vector<std::int64_t> sizes;
  for (const LinearImpl* const layer : layers) {
    weights.push_back(layer->weight);
    if (layer->bias.defined()) biases.push_back(layer->bias);
    sizes.push_back(layer->weight.size(0));
  }
  Tensor y = with_adapters(merged_linear(x, weights), x, layers);
  if (!biases.empty()) y = y + at::cat(biases).to(y.scalar_type());
  return y.split_with_sizes(sizes, -1);
}

}  // namespace

MultiHeadAttentionImpl::MultiHeadAttentionImpl(const MultiHeadAttentionOptions& options)
    : options_(completed(options)) {
  const std::int64_t query = options_.n_heads * options_.head_dim;
  const std::int64_t key = options_.n_kv_heads * options_.head_dim;
  const bool bias = options_.has_bias;
  wq_ = register_module("wq", Linear(options_.dim, query, bias));
  wk_ = register_module("wk", Linear(options_.context_dim, key, bias));
  wv_ = register_module("wv", Linear(options_.context_dim, key, bias));
  wo_ = register_module("wo", Linear(query, options_.dim, bias));
  if (!options_.has_qk_norm) return;
  q_norm_ = register_module("q_norm", RmsNorm(options_.head_dim, options_.norm_eps));
  k_norm_ = register_module("k_norm", RmsNorm(options_.head_dim, options_.norm_eps));
}

Tensor MultiHeadAttentionImpl::heads_of(const Tensor& projected) const {
  return projected.unflatten(-1, {-1, options_.head_dim}).transpose(1, 2);
}

/// Rounded once, behind the weight: what comes out has the dtype of what went in.
Tensor MultiHeadAttentionImpl::normed(RmsNorm& norm, const Tensor& heads) {
  return norm->add(upcast(heads), {}, heads.scalar_type()).normed.to(heads.scalar_type());
}

Tensor MultiHeadAttentionImpl::forward(const Tensor& x, const Tensor& context,
                                       const Tensor& lengths) {
  const ModuleScope scope(*this);
  const Tensor& seen = context.defined() ? context : x;
  HALFTONE_CHECK(x.dim() == 3 && x.size(2) == options_.dim && seen.dim() == 3 &&
                     seen.size(0) == x.size(0) && seen.size(2) == options_.context_dim,
                 "[multi_head_attention] expected x (B, T, ", options_.dim, ") and context (B, S, ",
                 options_.context_dim, "), got ", x.sizes(), " and ",
                 context.defined() ? c10::str(context.sizes()) : "none");
  std::vector<Tensor> parts;
  if (context.defined()) {
    parts = projected(x, {wq_.get()});
    const std::vector<Tensor> others = projected(context, {wk_.get(), wv_.get()});
    parts.insert(parts.end(), others.begin(), others.end());
  } else {
    parts = projected(x, {wq_.get(), wk_.get(), wv_.get()});
  }
  for (Tensor& part : parts) part = heads_of(part);
  if (options_.has_qk_norm) {
    parts[0] = normed(q_norm_, parts[0]);
    parts[1] = normed(k_norm_, parts[1]);
  }
  const KeepFp32Scope scores(wq_->weight);
  const double dropout = is_training() ? options_.dropout : 0.0;
  const Tensor mixed = full_attention(parts[0], parts[1], parts[2], lengths, dropout);
  return wo_(mixed.transpose(1, 2).flatten(2));
}

torch::ScalarType MultiHeadAttentionImpl::input_dtype(const Tensor& x,
                                                      const Tensor& context) const {
  if (context.defined()) return halftone::input_dtype(x, input_weights({wq_.get()}));
  return halftone::input_dtype(x, input_weights({wq_.get(), wk_.get(), wv_.get()}));
}

}  // namespace halftone
