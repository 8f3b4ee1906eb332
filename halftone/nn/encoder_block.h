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

struct EncoderBlockOptions {
  std::int64_t dim = 0;
  std::int64_t n_heads = 0;
  std::int64_t hidden_dim = 0;  // of the feed-forward network
  bool has_qk_norm = false;     // as MultiHeadAttentionOptions has it
  double norm_eps = 1e-6;
};

/// A block of a transformer that reads: h = x + attention(norm(x)); y = h + feed_forward(norm(h)),
/// where each position sees all that are no padding. Positions are to be in x already. In a mixed
/// precision the stream x stays in fp32; the norms add the branches to it and round to the matmuls'
/// format, in one pass. Where the ComputeContext says recompute_blocks (memory = lean), a block
/// keeps its input alone and runs again in the backward pass.
class EncoderBlockImpl : public torch::nn::Module {
 public:
  /// Throws UserError for sizes that do not fit together.
  explicit EncoderBlockImpl(const EncoderBlockOptions& options);

  /// x (B, T, dim), of which `lengths` (B) int64 count, or all -> (B, T, dim).
  torch::Tensor forward(const torch::Tensor& x, const torch::Tensor& lengths = {});

 private:
  torch::Tensor computed(const torch::Tensor& x, const torch::Tensor& lengths);

  RmsNorm attention_norm_{nullptr};
  MultiHeadAttention attention_{nullptr};
  RmsNorm ffn_norm_{nullptr};
  FeedForward ffn_{nullptr};
};
TORCH_MODULE(EncoderBlock);

}  // namespace halftone
