// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// The embedding, whose matrix may be that of the output head too. Initialised as the head's Linear
/// would be, uniform in +-1/sqrt(dim).
class EmbeddingImpl : public torch::nn::Module {
 public:
  EmbeddingImpl(std::int64_t vocab_size, std::int64_t dim, bool is_head = true);

  torch::Tensor forward(const torch::Tensor& ids);    // (B, T) int64 -> (B, T, dim)
  torch::Tensor logits(const torch::Tensor& hidden);  // (..., dim) -> (..., vocab)

  /// masked_cross_entropy() of the logits of `hidden` (..., dim), without holding all of them.
  /// targets (...) int64, mask (...).
  torch::Tensor loss(const torch::Tensor& hidden, const torch::Tensor& targets,
                     const torch::Tensor& mask);

  bool is_head() const { return is_head_; }

  torch::Tensor weight;  // (vocab, dim)

 private:
  bool is_head_;
};
TORCH_MODULE(Embedding);

}  // namespace halftone
