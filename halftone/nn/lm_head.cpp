// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/lm_head.h"

#include <cmath>

#include "halftone/core/module_scope.h"
#include "halftone/kernels/linear/linear_cross_entropy.h"
#include "halftone/nn/conv2d.h"
#include "halftone/nn/embedding.h"
#include "halftone/nn/linear.h"
#include "halftone/nn/loss.h"
#include "halftone/nn/new_parameter.h"

namespace halftone {

LmHeadImpl::LmHeadImpl(std::int64_t vocab_size, std::int64_t dim) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(dim));
  weight = register_parameter("weight", new_parameter({vocab_size, dim}).uniform_(-bound, bound));
}

torch::Tensor LmHeadImpl::logits(const torch::Tensor& hidden) {
  const ModuleScope scope(*this);
  return lm_head_logits(hidden, weight);
}

torch::Tensor LmHeadImpl::loss(const torch::Tensor& hidden, const torch::Tensor& targets,
                               const torch::Tensor& mask) {
  const ModuleScope scope(*this);
  return masked_linear_cross_entropy(hidden, weight, targets, mask);
}

torch::Tensor multiplied_weight(const torch::nn::Module& module) {
  if (const auto* const linear = dynamic_cast<const LinearImpl*>(&module)) return linear->weight;
  if (const auto* const conv = dynamic_cast<const Conv2dImpl*>(&module)) return conv->weight;
  if (const auto* const head = dynamic_cast<const LmHeadImpl*>(&module)) return head->weight;
  const auto* const embedding = dynamic_cast<const EmbeddingImpl*>(&module);
  return embedding != nullptr && embedding->is_head() ? embedding->weight : torch::Tensor();
}

}  // namespace halftone
