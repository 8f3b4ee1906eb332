// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/linear_cross_entropy.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/error.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/recorded_op_impl.h"
#include "halftone/kernels/fused/cross_entropy.h"
#include "halftone/kernels/linear/fused_grad_accumulation.h"
#include "halftone/kernels/linear/int8_linear.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/kernels/linear/lm_head_matmuls.h"

namespace halftone {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Problem {
  Tensor targets;  // (N)
  Tensor weights;  // (N) fp32: the mask
  LmHeadFormat recipe;
  std::int64_t chunk_rows;
};

struct Wanted {
  bool hidden = false;
  bool weight = false;
};

struct Solution {
  Tensor loss;      // scalar
  Tensor d_hidden;  // (N, dim) fp32, where wanted
  Tensor d_weight;  // (V, dim) fp32, where wanted
};

/// One pass over the chunks. Nothing of the size of all logits is ever held.
class ChunkPass {
 public:
  ChunkPass(const Tensor& hidden, const Tensor& weight, const Problem& problem, Wanted wanted)
      : hidden_(hidden),
        weight_(weight),
        problem_(problem),
        wanted_(wanted),
        products_(lm_head_matmuls(weight, problem.recipe)),
        losses_(at::zeros({hidden.size(0)}, fp32())) {
    const Tensor total = problem.weights.sum();
    shares_ = problem.weights / at::where(total == 0, at::ones_like(total), total);
    if (wanted_.hidden) solution_.d_hidden = at::zeros(hidden.sizes(), fp32());
  }

  Solution run() {
    const std::int64_t rows = hidden_.size(0);
    for (std::int64_t first = 0; first < rows; first += problem_.chunk_rows)
      chunk(first, std::min(problem_.chunk_rows, rows - first));
    if (wanted_.weight && !solution_.d_weight.defined())
      solution_.d_weight = at::zeros_like(weight_, fp32());
    solution_.loss = weighted_mean(losses_, problem_.weights);
    return solution_;
  }

 private:
  torch::TensorOptions fp32() const { return hidden_.options().dtype(torch::kFloat); }

  void chunk(std::int64_t first, std::int64_t count) {
    const auto part = [&](const Tensor& rows) { return rows.narrow(0, first, count); };
    Tensor logits = products_->logits(part(hidden_));
    const Tensor targets = part(problem_.targets);
    if (!wanted_.hidden && !wanted_.weight) {
      part(losses_).copy_(row_cross_entropy(logits, targets, part(problem_.weights)));
      return;
    }
    const Tensor shares = part(shares_);
    const int exponent = products_->gradient_exponent(shares.abs().max().item<double>());
    const double unit = std::ldexp(1.0, -exponent);
    part(losses_).copy_(row_cross_entropy_to_gradient(
        logits, targets, exponent == 0 ? shares : shares * std::ldexp(1.0, exponent)));
    if (wanted_.hidden) products_->hidden_gradient(logits, unit, part(solution_.d_hidden));
    if (wanted_.weight) products_->add_weight_gradient(logits, unit, solution_.d_weight);
  }

  Tensor hidden_;
  Tensor weight_;
  const Problem& problem_;
  Wanted wanted_;
  std::unique_ptr<LmHeadMatmuls> products_;
  Tensor losses_;  // (N)
  Tensor shares_;  // (N): of the mean
  Solution solution_;
};

Solution solve(const Tensor& hidden, const Tensor& weight, const Problem& problem, Wanted wanted) {
  const torch::NoGradGuard no_grad;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  return ChunkPass(hidden.contiguous(), weight, problem, wanted).run();
}

/// sum += factor * term, a block at a time: where their dtypes differ, LibTorch widens a copy of
/// what it adds to.
void add_in_blocks(const Tensor& sum, const Tensor& term, double factor) {
  const std::int64_t rows = sum.size(0);
  const std::int64_t step =
      std::max<std::int64_t>(1, kWeightGradientBlock / std::max<std::int64_t>(sum.size(1), 1));
  for (std::int64_t row = 0; row < rows; row += step) {
    const std::int64_t count = std::min(step, rows - row);
    sum.narrow(0, row, count).add_(term.narrow(0, row, count), factor);
  }
}

struct ChunkedLoss : torch::autograd::Function<ChunkedLoss> {
  static Tensor forward(AutogradContext* ctx, const Tensor& hidden, const Tensor& weight,
                        const Problem& problem) {
    const Solution solution =
        solve(hidden, weight, problem, {hidden.requires_grad(), weight.requires_grad()});
    ctx->save_for_backward({solution.d_hidden, solution.d_weight, weight});
    ctx->saved_data["hidden_dtype"] = static_cast<std::int64_t>(hidden.scalar_type());
    ctx->saved_data["weight_dtype"] = static_cast<std::int64_t>(weight_grad_dtype(weight));
    return solution.loss;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& incoming) {
    HALFTONE_CHECK(!torch::GradMode::is_enabled(),
                   "[linear_cross_entropy] expected a first derivative, got create_graph: the "
                   "chunked loss can be differentiated once");
    const variable_list saved = ctx->get_saved_variables();
    const double factor = incoming.front().item<double>();
    // A graph that is kept will ask for them again, and whoever takes them may write to them.
    const bool kept = torch::autograd::get_current_graph_task_keep_graph();
    const auto scaled = [&](const Tensor& gradient, const char* dtype) {
      if (!gradient.defined()) return gradient;
      const auto to = static_cast<torch::ScalarType>(ctx->saved_data[dtype].toInt());
      if (kept) return gradient.mul(factor).to(to);
      return (factor == 1.0 ? gradient : gradient.mul_(factor)).to(to);
    };
    if (!saved[1].defined()) return {scaled(saved[0], "hidden_dtype"), {}, {}};
    if (Tensor sum = weight_grad_in_place({saved[2]}); sum.defined()) {
      add_in_blocks(sum, saved[1], factor);
      return {scaled(saved[0], "hidden_dtype"), {}, {}};
    }
    return {scaled(saved[0], "hidden_dtype"), scaled(saved[1], "weight_dtype"), {}};
  }
};

void check(const Tensor& hidden, const Tensor& weight, const Tensor& targets, const Tensor& mask) {
  HALFTONE_CHECK(
      hidden.dim() == 2 && weight.dim() == 2 && hidden.size(1) == weight.size(1) &&
          targets.dim() == 1 && targets.size(0) == hidden.size(0) &&
          mask.sizes() == targets.sizes(),
      "[linear_cross_entropy] expected hidden (N, dim), weight (V, dim), targets (N) and "
      "mask (N), got ",
      hidden.sizes(), ", ", weight.sizes(), ", ", targets.sizes(), ", ", mask.sizes());
}

bool is_supported(torch::ScalarType dtype) {
  return dtype == torch::kFloat || dtype == torch::kBFloat16 || dtype == torch::kHalf;
}

}  // namespace

std::int64_t loss_chunk_rows(std::int64_t rows, std::int64_t classes, std::int64_t dim) {
  constexpr std::int64_t kElements = std::int64_t{1} << 22U;
  constexpr std::int64_t kStep = 16;
  const std::int64_t most =
      std::max({kElements / std::max<std::int64_t>(classes, 1), dim / 4, kStep});
  const std::int64_t chunks = std::max<std::int64_t>(1, (rows + most - 1) / most);
  const std::int64_t even = (rows + chunks - 1) / chunks;
  return std::max(kStep, (even + kStep - 1) / kStep * kStep);
}

Tensor linear_cross_entropy(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                            const Tensor& mask, std::int64_t chunk_rows) {
  check(hidden, weight, targets, mask);
  const bool autocast = at::autocast::is_autocast_enabled(hidden.device().type());
  Problem problem{.targets = targets,
                  .weights = mask.to(torch::kFloat),
                  .recipe = {.dtype = compute_dtype(hidden)},
                  .chunk_rows = chunk_rows > 0 ? chunk_rows
                                               : loss_chunk_rows(hidden.size(0), weight.size(0),
                                                                 weight.size(1))};
  const bool int8 = problem.recipe.dtype == torch::kFloat && is_int8_matmul_enabled();
  const bool kept = (autocast || int8) && keeps_fp32(weight);
  if (!is_fused(FusedKernel::kLinearCrossEntropy) || !hidden.is_cpu() || !weight.is_cpu() ||
      weight.size(0) == 0 || !is_supported(problem.recipe.dtype) ||
      !is_supported(weight.scalar_type()))
    return masked_mean_cross_entropy(halftone::linear(hidden, weight), targets, mask);
  HALFTONE_CHECK(autocast || weight.scalar_type() == hidden.scalar_type(),
                 "[linear_cross_entropy] expected hidden and weight of one dtype, got ",
                 hidden.scalar_type(), " and ", weight.scalar_type(),
                 "; convert one or turn autocast on");
  if (kept) problem.recipe.dtype = torch::kFloat;
  problem.recipe.int8 = int8 && !kept;
  if (problem.recipe.int8) problem.recipe.stream = next_int8_stream();
  ObservedOperation observed("halftone::linear_cross_entropy", hidden, weight, targets, mask);
  const bool learns =
      torch::GradMode::is_enabled() && (hidden.requires_grad() || weight.requires_grad());
  const Tensor loss = learns ? ChunkedLoss::apply(hidden, weight, problem)
                             : solve(hidden, weight, problem, {}).loss;
  observed.set_outputs(loss);
  return loss;
}

}  // namespace halftone
