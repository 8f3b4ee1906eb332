// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// The output head of a model whose embedding has a matrix of its own. Initialised as a Linear:
/// uniform in +-1/sqrt(dim).
class LmHeadImpl : public torch::nn::Module {
 public:
  LmHeadImpl(std::int64_t vocab_size, std::int64_t dim);

  torch::Tensor logits(const torch::Tensor& hidden);  // (..., dim) -> (..., vocab)

  /// masked_cross_entropy() of the logits of `hidden` (..., dim), without holding all of them.
  /// targets (...) int64, mask (...).
  torch::Tensor loss(const torch::Tensor& hidden, const torch::Tensor& targets,
                     const torch::Tensor& mask);

  torch::Tensor weight;  // (vocab, dim)
};
TORCH_MODULE(LmHead);

/// The weight that `module` multiplies by: of a Linear, a Conv2d, an LmHead, and of an Embedding
/// that is the output head too. Undefined for any other module.
torch::Tensor multiplied_weight(const torch::nn::Module& module);

}  // namespace halftone
