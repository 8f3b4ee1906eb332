// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>

#include "halftone/nn/linear.h"
#include "halftone/nn/rms_norm.h"

namespace halftone {

struct MultiHeadAttentionOptions {
  std::int64_t dim = 0;          // of the queries' sequence, and of the result
  std::int64_t context_dim = 0;  // of the keys' and values' sequence; 0: dim
  std::int64_t n_heads = 0;
  std::int64_t n_kv_heads = 0;  // 0: n_heads; else a divisor of it, heads share keys and values
  std::int64_t head_dim = 0;    // 0: dim / n_heads
  bool has_bias = false;        // of all four projections
  bool has_qk_norm = false;     // RMSNorm of each head's query and key
  double norm_eps = 1e-6;       // of these norms
  double dropout = 0.0;         // on the attention weights, in training
};

/// Attention without a mask (Vaswani et al. 2017): each position of one sequence sees all of itself
/// (an encoder, a picture's patches), or all of another one (cross-attention). Positions are none
/// of its business: add them to x. The projections wq, wk, wv, wo are halftone::Linear; the softmax
/// is fp32, and scores are kept in fp32 with wq. Causal attention with rotary positions is
/// halftone::Attention.
class MultiHeadAttentionImpl : public torch::nn::Module {
 public:
  /// Throws UserError for sizes that do not fit together.
  explicit MultiHeadAttentionImpl(const MultiHeadAttentionOptions& options);

  /// x (B, T, dim), context (B, S, context_dim) with S >= 1, or undefined: x itself, which needs a
  /// context_dim of dim. `lengths` (B) int64: context from there on is padding (finite numbers)
  /// that is not seen; undefined: all is seen. A query that sees nothing gets wo of 0. Returns (B,
  /// T, dim).
  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& context = {},
                        const torch::Tensor& lengths = {});

  /// The dtype that forward(x, context) rounds x to before anything else: x may come in it.
  torch::ScalarType input_dtype(const torch::Tensor& x, const torch::Tensor& context = {}) const;

 private:
  torch::Tensor heads_of(const torch::Tensor& projected) const;  // (B, T, H d) -> (B, H, T, d)
  torch::Tensor normed(RmsNorm& norm, const torch::Tensor& heads);

  MultiHeadAttentionOptions options_;
  Linear wq_{nullptr};
  Linear wk_{nullptr};
  Linear wv_{nullptr};
  Linear wo_{nullptr};
  RmsNorm q_norm_{nullptr};  // with has_qk_norm
  RmsNorm k_norm_{nullptr};
};
TORCH_MODULE(MultiHeadAttention);

}  // namespace halftone
