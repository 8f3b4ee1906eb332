// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>

#include "halftone/nn/feed_forward.h"
#include "halftone/nn/multi_head_attention.h"
#include "halftone/nn/rms_norm.h"

namespace halftone {

struct DiffusionBlockOptions {
  std::int64_t dim = 0;
  std::int64_t context_dim = 0;  // of what it attends to beside x, such as a text; 0: dim
  std::int64_t n_heads = 0;
  std::int64_t hidden_dim = 0;  // of the feed-forward network
  bool has_qk_norm = true;      // of both attentions: without it their scores grow in training
  double norm_eps = 1e-6;
};

/// A block of a diffusion transformer that a text guides (PixArt: Chen et al. 2023, after DiT:
/// Peebles and Xie 2023). With six vectors m = condition + modulation, where `modulation` is a
/// parameter of the block that begins with 0, and the condition is made once for all blocks:
///   h = x + (1 + m2) attention(m0 + (1 + m1) norm(x))
///   g = h + cross_attention(norm(h), context)
///   y = g + (1 + m5) feed_forward(m3 + (1 + m4) norm(g))
/// With m = 0, as at the start for a condition of 0, it is a plain block with cross-attention. What
/// is modulated stays in fp32 until its matmul, in a mixed precision, as does the stream x. Where
/// the ComputeContext says recompute_blocks (memory = lean), a block keeps its inputs alone and
/// runs again in the backward pass.
class DiffusionBlockImpl : public torch::nn::Module {
 public:
  /// Throws UserError for sizes that do not fit together.
  explicit DiffusionBlockImpl(const DiffusionBlockOptions& options);

  /// x (B, T, dim), condition (B, 6, dim), context (B, S, context_dim) of which `lengths` (B) int64
  /// count, or all -> (B, T, dim).
  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& condition,
                        const torch::Tensor& context, const torch::Tensor& lengths = {});

  torch::Tensor modulation;  // (6, dim)

 private:
  torch::Tensor computed(const torch::Tensor& x, const torch::Tensor& condition,
                         const torch::Tensor& context, const torch::Tensor& lengths);

  RmsNorm norm_{nullptr};
  MultiHeadAttention attention_{nullptr};
  RmsNorm cross_norm_{nullptr};
  MultiHeadAttention cross_attention_{nullptr};
  RmsNorm ffn_norm_{nullptr};
  FeedForward ffn_{nullptr};
};
TORCH_MODULE(DiffusionBlock);

}  // namespace halftone
