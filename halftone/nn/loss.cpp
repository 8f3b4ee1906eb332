// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/loss.h"

#include "halftone/core/error.h"
#include "halftone/kernels/fused/cross_entropy.h"
#include "halftone/kernels/linear/linear_cross_entropy.h"

namespace halftone {

using torch::Tensor;

Tensor masked_cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& mask) {
  HALFTONE_CHECK(logits.dim() == 2 && targets.dim() == 1 && mask.sizes() == targets.sizes() &&
                     logits.size(0) == targets.size(0),
                 "[masked_cross_entropy] expected logits (N, V), targets (N), mask (N), got ",
                 logits.sizes(), ", ", targets.sizes(), ", ", mask.sizes());
  return masked_mean_cross_entropy(logits, targets, mask);
}

Tensor masked_linear_cross_entropy(const Tensor& hidden, const Tensor& weight,
                                   const Tensor& targets, const Tensor& mask) {
  return linear_cross_entropy(hidden.flatten(0, -2), weight, targets.flatten(), mask.flatten());
}

}  // namespace halftone
