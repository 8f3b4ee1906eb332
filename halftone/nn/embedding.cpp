// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/embedding.h"

#include <ATen/ops/embedding.h>

#include <cmath>

#include "halftone/kernels/linear.h"

namespace halftone {

EmbeddingImpl::EmbeddingImpl(std::int64_t vocab_size, std::int64_t dim) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(dim));
  weight = register_parameter("weight", torch::empty({vocab_size, dim}).uniform_(-bound, bound));
}

torch::Tensor EmbeddingImpl::forward(const torch::Tensor& ids) {
  return at::embedding(weight, ids);
}

torch::Tensor EmbeddingImpl::logits(const torch::Tensor& hidden) {
  return halftone::linear(hidden, weight);
}

}  // namespace halftone
