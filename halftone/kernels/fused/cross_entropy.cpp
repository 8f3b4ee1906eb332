// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/fused/cross_entropy.h"

#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "halftone/core/error.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/kernel_type_impl.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/fused/cross_entropy_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

void check(const Tensor& logits, const Tensor& targets, const Tensor& weights) {
  HALFTONE_CHECK(logits.dim() == 2 && targets.dim() == 1 && weights.sizes() == targets.sizes() &&
                     logits.size(0) == targets.size(0) && logits.size(1) > 0,
                 "[cross_entropy] expected logits (N, V), targets (N), weights (N), got ",
                 logits.sizes(), ", ", targets.sizes(), ", ", weights.sizes());
  HALFTONE_CHECK(targets.scalar_type() == torch::kLong, "[cross_entropy] expected int64 targets, ",
                 "got ", targets.scalar_type());
}

void check_range(const Tensor& targets, const Tensor& weights, std::int64_t classes) {
  const auto* target = targets.const_data_ptr<std::int64_t>();
  const auto* weight = weights.const_data_ptr<float>();
  for (std::int64_t i = 0; i < targets.numel(); ++i)
    HALFTONE_CHECK(weight[i] == 0.0F || (0 <= target[i] && target[i] < classes),
                   "[cross_entropy] expected targets in 0 .. ", classes - 1, ", got ", target[i],
                   " in row ", i);
}

bool takes_cross_entropy(const Tensor& logits) {
  return is_fused(FusedKernel::kCrossEntropy) && is_simd_operand(logits);
}

Tensor losses_by_rows(const Tensor& logits, const Tensor& targets, const Tensor& weights,
                      bool write_gradient) {
  const Tensor target = targets.contiguous();
  const Tensor weight = weights.to(torch::kFloat).contiguous();
  check_range(target, weight, logits.size(1));
  const Tensor losses = at::empty({logits.size(0)}, logits.options().dtype(torch::kFloat));
  const CrossEntropyRows rows{.logits = write_gradient ? logits.mutable_data_ptr()
                                                       : const_cast<void*>(logits.const_data_ptr()),
                              .type = kernel_type(logits.scalar_type()),
                              .classes = logits.size(1),
                              .targets = target.const_data_ptr<std::int64_t>(),
                              .weights = weight.const_data_ptr<float>(),
                              .losses = losses.mutable_data_ptr<float>(),
                              .write_gradient = write_gradient};
  const std::int64_t grain = std::max<std::int64_t>(1, 16384 / rows.classes);
  at::parallel_for(0, logits.size(0), grain, [&](std::int64_t begin, std::int64_t end) {
    cross_entropy_range(rows, begin, end);
  });
  return losses;
}

// ---- losses alone

Tensor losses_by_definition(const Tensor& logits, const Tensor& targets, const Tensor& weights) {
  check(logits, targets, weights);
  const torch::NoGradGuard no_grad;
  return row_cross_entropy_reference(logits, targets, weights);
}

Tensor losses_cpu(const Tensor& logits, const Tensor& targets, const Tensor& weights) {
  if (!takes_cross_entropy(logits)) return losses_by_definition(logits, targets, weights);
  check(logits, targets, weights);
  return losses_by_rows(logits.contiguous(), targets, weights, /*write_gradient=*/false);
}

Tensor losses_buffer(const Tensor& logits, const Tensor& targets, const Tensor& weights) {
  check(logits, targets, weights);
  return at::empty({logits.size(0)}, logits.options().dtype(torch::kFloat));
}

const Operator<Tensor(const Tensor&, const Tensor&, const Tensor&)> cross_entropy_operator(
    "cross_entropy(Tensor logits, Tensor targets, Tensor weights) -> Tensor",
    {.reference = losses_by_definition, .cpu = losses_cpu, .meta = losses_buffer});

// ---- losses, and the gradient in the place of the logits

using LossesAndGradient = std::tuple<Tensor, Tensor>;

void check_overwritten(const Tensor& logits, const Tensor& targets, const Tensor& weights) {
  check(logits, targets, weights);
  HALFTONE_CHECK(logits.is_contiguous(), "[cross_entropy] expected contiguous logits, got strides ",
                 logits.strides());
}

LossesAndGradient overwrite_by_definition(const Tensor& logits, const Tensor& targets,
                                          const Tensor& weights) {
  check_overwritten(logits, targets, weights);
  const torch::AutoGradMode with_grad(true);
  const Tensor leaf = logits.detach().requires_grad_();
  const Tensor losses = row_cross_entropy_reference(leaf, targets, weights);
  const Tensor gradient =
      torch::autograd::grad({losses}, {leaf}, {weights.to(losses.scalar_type())}).front();
  const torch::NoGradGuard no_grad;
  logits.copy_(gradient);
  return {losses.detach(), logits};
}

LossesAndGradient overwrite_cpu(const Tensor& logits, const Tensor& targets,
                                const Tensor& weights) {
  if (!takes_cross_entropy(logits)) return overwrite_by_definition(logits, targets, weights);
  check_overwritten(logits, targets, weights);
  return {losses_by_rows(logits, targets, weights, /*write_gradient=*/true), logits};
}

LossesAndGradient overwrite_buffer(const Tensor& logits, const Tensor& targets,
                                   const Tensor& weights) {
  check_overwritten(logits, targets, weights);
  return {losses_buffer(logits, targets, weights), logits};
}

const Operator<LossesAndGradient(const Tensor&, const Tensor&, const Tensor&)>
    cross_entropy_to_gradient(
        "cross_entropy_to_gradient_(Tensor(a!) logits, Tensor targets, Tensor weights) -> "
        "(Tensor, Tensor(a!))",
        {.reference = overwrite_by_definition, .cpu = overwrite_cpu, .meta = overwrite_buffer});

}  // namespace

Tensor row_cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& weights) {
  const torch::NoGradGuard no_grad;
  return cross_entropy_operator(logits, targets, weights);
}

Tensor row_cross_entropy_to_gradient(Tensor& logits, const Tensor& targets, const Tensor& weights) {
  const torch::NoGradGuard no_grad;
  return std::get<0>(cross_entropy_to_gradient(logits, targets, weights));
}

Tensor row_cross_entropy_reference(const Tensor& logits, const Tensor& targets,
                                   const Tensor& weights) {
  const Tensor wide = logits.scalar_type() == torch::kDouble ? logits : logits.to(torch::kFloat);
  // No target of a row that counts, so that a wrong one is refused.
  constexpr std::int64_t kIgnored = std::numeric_limits<std::int64_t>::min();
  const Tensor counted = at::where(weights != 0, targets, at::full_like(targets, kIgnored));
  return at::cross_entropy_loss(wide, counted, {}, at::Reduction::None, kIgnored);
}

Tensor weighted_mean(const Tensor& losses, const Tensor& weights) {
  const Tensor total = weights.sum();
  return (losses * weights).sum() / total.masked_fill(total == 0, 1);
}

Tensor masked_mean_cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& mask) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const bool is_double = logits.scalar_type() == torch::kDouble;
  const Tensor weights = mask.to(is_double ? torch::kDouble : torch::kFloat);
  return weighted_mean(row_cross_entropy_reference(logits, targets, weights), weights);
}

}  // namespace halftone
