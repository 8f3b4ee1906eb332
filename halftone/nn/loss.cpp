// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/loss.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>

#include "halftone/core/error.h"

namespace halftone {

using torch::Tensor;

Tensor masked_cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& mask) {
  HALFTONE_CHECK(logits.dim() == 2 && targets.dim() == 1 && mask.sizes() == targets.sizes() &&
                     logits.size(0) == targets.size(0),
                 "[masked_cross_entropy] expected logits (N, V), targets (N), mask (N), got ",
                 logits.sizes(), ", ", targets.sizes(), ", ", mask.sizes());
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const bool is_double = logits.scalar_type() == torch::kDouble;
  const Tensor wide = is_double ? logits : logits.to(torch::kFloat);
  const Tensor weights = mask.to(wide.scalar_type());
  // A masked target may be anything, such as padding outside the vocabulary.
  constexpr std::int64_t kIgnored = -100;
  const Tensor counted = at::where(weights != 0, targets, at::full_like(targets, kIgnored));
  const Tensor each = at::cross_entropy_loss(wide, counted, {}, at::Reduction::None, kIgnored);
  const Tensor total = weights.sum();
  return (each * weights).sum() / at::where(total == 0, at::ones_like(total), total);
}

}  // namespace halftone
