// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/linear_cross_entropy.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/dtype.h"
#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/host_value_impl.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/common/without_data.h"
#include "halftone/kernels/fused/cross_entropy.h"
#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/kernels/gemm/gemm_half.h"
#include "halftone/kernels/gemm/matmul_format.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/fused_grad_accumulation.h"
#include "halftone/kernels/linear/layer_formats.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/kernels/linear/stored_weights.h"
#include "halftone/kernels/linear/weight_cache.h"

namespace halftone {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Problem {
  Tensor targets;  // (N)
  Tensor weights;  // (N) fp32: the mask
  ComputeType type;
  std::uint64_t stream;  // of the stochastic rounding of gradients
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
        format_(matmul_format(problem.type)),
        weight_operand_(weight_operand(compute_context(), problem.type, {weight})->for_many()),
        losses_(at::zeros({hidden.size(0)}, fp32())) {
    const Tensor total = problem.weights.sum();
    shares_ = problem.weights / total.masked_fill(total == 0, 1);
    if (wanted_.hidden) solution_.d_hidden = at::zeros(hidden.sizes(), fp32());
  }

  Solution run() {
    const std::int64_t rows = hidden_.size(0);
    // Without data all chunks after the second are like it.
    const std::int64_t end = hidden_.is_meta() ? std::min(rows, 2 * problem_.chunk_rows) : rows;
    for (std::int64_t first = 0; first < end; first += problem_.chunk_rows) {
      const std::int64_t count = std::min(problem_.chunk_rows, rows - first);
      const bool stands_for_rest = end < rows && first + problem_.chunk_rows >= end;
      const StandsForScope scope(
          stands_for_rest ? static_cast<double>(rows - first) / static_cast<double>(count) : 1.0);
      chunk(first, count);
    }
    if (wanted_.weight && !solution_.d_weight.defined())
      solution_.d_weight = at::zeros_like(weight_, fp32());
    solution_.loss = weighted_mean(losses_, problem_.weights);
    return solution_;
  }

 private:
  torch::TensorOptions fp32() const { return hidden_.options().dtype(torch::kFloat); }

  void chunk(std::int64_t first, std::int64_t count) {
    const auto part = [&](const Tensor& rows) { return rows.narrow(0, first, count); };
    const OperandPtr hidden = format_.input(part(hidden_));
    Tensor logits = format_.forward(*hidden, *weight_operand_);
    const Tensor targets = part(problem_.targets);
    if (!wanted_.hidden && !wanted_.weight) {
      part(losses_).copy_(row_cross_entropy(logits, targets, part(problem_.weights)));
      return;
    }
    const Tensor shares = part(shares_);
    const int exponent = gradient_exponent(*hidden, shares);
    const double unit = std::ldexp(1.0, -exponent);
    part(losses_).copy_(row_cross_entropy_to_gradient(
        logits, targets, exponent == 0 ? shares : shares * std::ldexp(1.0, exponent)));
    const std::uint64_t stream = random_word(problem_.stream, chunk_++);
    const OperandPtr gradient =
        format_.gradient(logits, {random_word(stream, 0), random_word(stream, 1)});
    if (wanted_.hidden) {
      const Tensor product = format_.input_gradient(*gradient, *weight_operand_, torch::kFloat);
      part(solution_.d_hidden).copy_(unit == 1.0 ? product : product.mul_(unit));
    }
    if (wanted_.weight) add_weight_gradient(*gradient, *hidden, unit);
  }

  /// The power of two by which the gradient is multiplied before it is rounded: as large as is safe
  /// where the format's range is short (fp16), up to 2^15, half of that range; else 0.
  int gradient_exponent(Operand& hidden, const Tensor& shares) {
    const std::optional<double> growth = format_.gradient_growth(hidden, *weight_operand_);
    if (!growth) return 0;
    const double top = host_value(shares.abs().max()) * *growth;
    if (!std::isfinite(top) || top <= 0.0) return 0;
    return std::clamp(15 - static_cast<int>(std::ceil(std::log2(top))), -60, 60);
  }

  void add_weight_gradient(Operand& gradient, Operand& hidden, double factor) {
    Tensor& sum = solution_.d_weight;
    if (sum.defined()) return format_.add_weight_gradient(gradient, hidden, sum, factor);
    sum = format_.weight_gradient(gradient, hidden, torch::kFloat);
    if (factor != 1.0) sum.mul_(factor);
  }

  Tensor hidden_;
  Tensor weight_;
  const Problem& problem_;
  Wanted wanted_;
  const MatmulFormat& format_;
  OperandPtr weight_operand_;
  std::uint64_t chunk_ = 0;  // that have been computed
  Tensor losses_;            // (N)
  Tensor shares_;            // (N): of the mean
  Solution solution_;
};

Solution solve(const Tensor& hidden, const Tensor& weight, const Problem& problem, Wanted wanted) {
  const torch::NoGradGuard no_grad;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  return ChunkPass(hidden.contiguous(), weight, problem, wanted).run();
}

/// sum += factor * term, computed in fp32, a block at a time: a narrower sum is widened for it.
void add_in_blocks(const Tensor& sum, const Tensor& term, double factor) {
  const std::int64_t rows = sum.size(0);
  const std::int64_t step =
      std::max<std::int64_t>(1, kSumBlock / std::max<std::int64_t>(sum.size(1), 1));
  for (std::int64_t row = 0; row < rows; row += step) {
    const std::int64_t count = std::min(step, rows - row);
    const Tensor block = sum.narrow(0, row, count);
    const Tensor wide = block.to(torch::kFloat).add_(term.narrow(0, row, count), factor);
    if (!wide.is_same(block)) block.copy_(wide);
  }
}

struct ChunkedLoss : torch::autograd::Function<ChunkedLoss> {
  static Tensor forward(AutogradContext* ctx, const Tensor& hidden, const Tensor& weight,
                        const Problem& problem) {
    const Solution solution =
        solve(hidden, weight, problem, {hidden.requires_grad(), weight.requires_grad()});
    ctx->save_for_backward({solution.d_hidden, solution.d_weight, weight});
    ctx->saved_data["fused"] = compute_context().fused_grad_accumulation;
    ctx->saved_data["hidden_dtype"] = static_cast<std::int64_t>(hidden.scalar_type());
    ctx->saved_data["weight_dtype"] = static_cast<std::int64_t>(weight_grad_dtype(weight));
    return solution.loss;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& incoming) {
    HALFTONE_CHECK(!torch::GradMode::is_enabled(),
                   "[linear_cross_entropy] expected a first derivative, got create_graph: the "
                   "chunked loss can be differentiated once");
    const variable_list saved = ctx->get_saved_variables();
    const double factor = host_value(incoming.front());
    // A graph that is kept will ask for them again, and whoever takes them may write to them.
    const bool kept = torch::autograd::get_current_graph_task_keep_graph();
    const auto scaled = [&](const Tensor& gradient, const char* dtype) {
      if (!gradient.defined()) return gradient;
      const auto to = static_cast<torch::ScalarType>(ctx->saved_data[dtype].toInt());
      if (kept) return gradient.mul(factor).to(to);
      return (factor == 1.0 ? gradient : gradient.mul_(factor)).to(to);
    };
    if (!saved[1].defined()) return {scaled(saved[0], "hidden_dtype"), {}, {}};
    const ComputeContext context{.fused_grad_accumulation = ctx->saved_data["fused"].toBool()};
    if (Tensor sum = weight_grad_in_place(context, {saved[2]}); sum.defined()) {
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

/// Whether the regions round what an fp32 head would take.
bool rounds(const Tensor& hidden, ComputeType type) {
  return is_quantized(type) || is_autocast_on(hidden.device().type());
}

/// The format of a head that takes `hidden`: fp32 where its weight is kept so, else its own.
std::optional<ComputeType> head_type(const Tensor& hidden, const Tensor& weight) {
  const std::optional<ComputeType> type = linear_type(hidden);
  if (!type) return type;
  if (rounds(hidden, *type) && keeps_fp32(weight)) return ComputeType::kFloat32;
  return layer_format(weight).value_or(*type);
}

/// The context of a head in a model whose layers have the present one.
ComputeContext head_context() {
  return compute_context_in(lm_head_type(compute_context().compute));
}

/// linear(hidden, weight) in `type` alone.
Tensor logits_in(ComputeType type, const Tensor& hidden, const Tensor& weight) {
  const torch::ScalarType dtype = tensor_dtype(type);
  const Autocast autocast(autocast_device(hidden.device().type()), dtype, is_half(dtype));
  ComputeContext context = compute_context_in(type);
  context.layer_formats.reset();
  const ComputeScope scope(std::move(context));
  return is_half(dtype) ? halftone::linear(hidden, weight)
                        : halftone::linear(upcast(hidden), upcast(weight));
}

/// The logits, in head_context().
Tensor logits_of(const Tensor& hidden, const Tensor& weight) {
  const std::optional<ComputeType> own = layer_format(weight);
  const std::optional<ComputeType> recipe = linear_type(hidden);
  if (!own || !recipe || (rounds(hidden, *recipe) && keeps_fp32(weight)))
    return halftone::linear(hidden, weight);
  return logits_in(*own, hidden, weight);
}

/// The loss of a head that is held narrower than it computes, which has no gradients.
Tensor loss_of_stored_head(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                           const Tensor& mask, std::int64_t chunk_rows) {
  const Tensor weights = mask.to(torch::kFloat);
  const Tensor losses = at::zeros({hidden.size(0)}, hidden.options().dtype(torch::kFloat));
  for (std::int64_t first = 0; first < hidden.size(0); first += chunk_rows) {
    const std::int64_t count = std::min(chunk_rows, hidden.size(0) - first);
    const auto part = [&](const Tensor& rows) { return rows.narrow(0, first, count); };
    const Tensor logits = logits_of(part(hidden), weight);
    part(losses).copy_(row_cross_entropy(logits, part(targets), part(weights)));
  }
  return weighted_mean(losses, weights);
}

Tensor loss_by_definition(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                          const Tensor& mask, std::int64_t /*chunk_rows*/) {
  check(hidden, weight, targets, mask);
  return masked_mean_cross_entropy(lm_head_logits(hidden, weight), targets, mask);
}

Tensor loss_by_chunks(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                      const Tensor& mask, std::int64_t chunk_rows) {
  check(hidden, weight, targets, mask);
  const ComputeScope scope(head_context());
  if (chunk_rows <= 0) chunk_rows = loss_chunk_rows(hidden.size(0), weight.size(0), weight.size(1));
  if (stored_weights_of(weight) != nullptr)
    return loss_of_stored_head(hidden, weight, targets, mask, chunk_rows);
  const std::optional<ComputeType> type = head_type(hidden, weight);
  if (!is_fused(FusedKernel::kLinearCrossEntropy) || weight.size(0) == 0 || !type ||
      !compute_type_of(weight.scalar_type()))
    return masked_mean_cross_entropy(logits_of(hidden, weight), targets, mask);
  HALFTONE_CHECK(
      is_autocast_on(hidden.device().type()) || weight.scalar_type() == hidden.scalar_type(),
      "[linear_cross_entropy] expected hidden and weight of one dtype, got ", hidden.scalar_type(),
      " and ", weight.scalar_type(), "; convert one or turn autocast on");
  const Problem problem{.targets = targets,
                        .weights = mask.to(torch::kFloat),
                        .type = *type,
                        .stream = is_quantized(*type) ? compute_context().streams.next() : 0,
                        .chunk_rows = chunk_rows};
  const bool learns =
      torch::GradMode::is_enabled() && (hidden.requires_grad() || weight.requires_grad());
  return learns ? ChunkedLoss::apply(hidden, weight, problem)
                : solve(hidden, weight, problem, {}).loss;
}

using LossSignature = Tensor(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                             const Tensor& mask, std::int64_t chunk_rows);

const Operator<LossSignature> linear_cross_entropy_operator(
    "linear_cross_entropy(Tensor hidden, Tensor weight, Tensor targets, Tensor mask, "
    "int chunk_rows=0) -> Tensor",
    {.reference = loss_by_definition,
     .autograd = loss_by_chunks,
     .cpu = loss_by_chunks,
     .meta = loss_by_chunks});

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
  return linear_cross_entropy_operator(hidden, weight, targets, mask, chunk_rows);
}

Tensor lm_head_logits(const Tensor& hidden, const Tensor& weight) {
  const ComputeScope scope(head_context());
  return logits_of(hidden, weight);
}

}  // namespace halftone
