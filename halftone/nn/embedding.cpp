// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/embedding.h"

#include <ATen/autocast_mode.h>

#include <cmath>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/module_scope.h"
#include "halftone/kernels/fused/embedding.h"
#include "halftone/kernels/linear/linear_cross_entropy.h"
#include "halftone/kernels/linear/stored_weights.h"
#include "halftone/nn/loss.h"
#include "halftone/nn/new_parameter.h"

namespace halftone {

EmbeddingImpl::EmbeddingImpl(std::int64_t vocab_size, std::int64_t dim, bool is_head)
    : is_head_(is_head) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(dim));
  weight = register_parameter("weight", new_parameter({vocab_size, dim}).uniform_(-bound, bound));
}

torch::Tensor EmbeddingImpl::forward(const torch::Tensor& ids) {
  const ModuleScope scope(*this);
  if (const StoredWeights* stored = stored_weights_of(weight)) return stored->rows(weight, ids);
  const torch::Tensor rows = halftone::embedding(weight, ids);
  // In a mixed precision the stream is fp32, whatever the weights are kept in.
  return is_autocast_on(weight.device().type()) ? upcast(rows) : rows;
}

torch::Tensor EmbeddingImpl::logits(const torch::Tensor& hidden) {
  const ModuleScope scope(*this);
  return lm_head_logits(hidden, weight);
}

torch::Tensor EmbeddingImpl::loss(const torch::Tensor& hidden, const torch::Tensor& targets,
                                  const torch::Tensor& mask) {
  const ModuleScope scope(*this);
  return masked_linear_cross_entropy(hidden, weight, targets, mask);
}

}  // namespace halftone
