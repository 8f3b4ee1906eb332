// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/linear.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/dtype.h"
#include "halftone/core/error.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/matrix_rows_impl.h"
#include "halftone/kernels/common/recorded_op_impl.h"
#include "halftone/kernels/common/reference_grads_impl.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/gemm32.h"
#include "halftone/kernels/gemm/gemm_half.h"
#include "halftone/kernels/gemm/matvec.h"
#include "halftone/kernels/linear/fused_grad_accumulation.h"
#include "halftone/kernels/linear/int8_linear.h"
#include "halftone/kernels/linear/merged_weights_impl.h"
#include "halftone/kernels/linear/saved_input_impl.h"
#include "halftone/kernels/linear/weight_cache.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// The definition of merged_linear(), with the matmul that is given.
template <class Product>
Tensor reference_matmuls(const Tensor& x, const std::vector<Tensor>& weights,
                         const Product& product) {
  std::vector<Tensor> outputs;
  for (const Tensor& weight : weights) outputs.push_back(product(x, weight));
  return outputs.size() == 1 ? outputs.front() : at::cat(outputs, -1);
}

Tensor reference_linear(const Tensor& x, const std::vector<Tensor>& weights) {
  return reference_matmuls(
      x, weights, [](const Tensor& in, const Tensor& weight) { return at::linear(in, weight); });
}

/// What gemm_half takes on `path`: an operand of several matmuls is upcast once, not by each.
Tensor operand_for(GemmBackend path, const Tensor& narrow) {
  return path == GemmBackend::kUpcast ? narrow.to(torch::kFloat) : narrow;
}

/// The weights below each other, rounded to `dtype`.
Tensor round_weights(at::TensorList weights, ScalarType dtype) {
  if (const Tensor merged = merged_view(weights); merged.defined()) return merged.to(dtype);
  const Tensor merged = at::empty({total_rows(weights), weights.front().size(1)},
                                  weights.front().options().dtype(dtype));
  std::int64_t row = 0;
  for (const Tensor& weight : weights) {
    merged.narrow(0, row, weight.size(0)).copy_(weight);
    row += weight.size(0);
  }
  return merged;
}

void refuse_second_derivative() {
  HALFTONE_CHECK(!torch::GradMode::is_enabled(),
                 "[linear] expected a first derivative, got create_graph: a 16-bit linear layer "
                 "can be differentiated once");
}

struct MergedHalf : torch::autograd::Function<MergedHalf> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, at::TensorList weights,
                        ScalarType dtype) {
    const GemmBackend path = cpu_gemm_config().of(dtype).forward;
    const Tensor rows = as_rows(x.to(dtype));
    const Tensor rounded =
        cached_cast(weights, dtype, [&] { return round_weights(weights, dtype); });
    const Tensor out = gemm_half(operand_for(path, rows), rounded.t(), dtype, path);
    variable_list others{rounded};
    others.insert(others.end(), weights.begin(), weights.end());
    save_linear(ctx, std::move(others), x, rows);
    return out.view(with_last(x, rounded.size(0)));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_grads) {
    refuse_second_derivative();
    const SavedLinear saved(ctx);
    const Tensor& rounded = saved.others().front();
    const ScalarType dtype = rounded.scalar_type();
    const GemmBackends paths = cpu_gemm_config().of(dtype);
    const variable_list weights(saved.others().begin() + 1, saved.others().end());
    const Tensor g = as_rows(output_grads.front()).to(dtype);
    const Tensor g_operand = operand_for(paths.input_gradient, g);
    variable_list grads(weights.size() + 2);  // x, the weights, the dtype
    if (ctx->needs_input_grad(0)) {
      // Rounded as the matmul of 16-bit operands is, then in the dtype x came in.
      grads[0] = saved.input_grad(gemm_half(g_operand, rounded, dtype, paths.input_gradient));
    }
    if (!needs_any_weight_grad(*ctx, weights.size())) return grads;
    const bool shared = paths.weight_gradient == paths.input_gradient;
    const Tensor g_t = (shared ? g_operand : g).t();
    const Tensor rows = as_rows(saved.input(grads[0]).to(dtype));
    const Tensor x_operand = operand_for(paths.weight_gradient, rows);
    if (const Tensor sum = weight_grad_in_place(weights); sum.defined()) {
      gemm_half_add(sum, g_t, x_operand, paths.weight_gradient);
    } else {
      const ScalarType w_dtype = weight_grad_dtype(weights.front());
      split_rows(gemm_half(g_t, x_operand, w_dtype, paths.weight_gradient), row_counts(weights),
                 grads);
    }
    return grads;
  }
};

// fp32. Weights that lie apart: each matmul goes to its place in the result, nothing is copied.
struct Merged32 : torch::autograd::Function<Merged32> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, at::TensorList weights) {
    const Tensor rows = as_rows(x);
    const Tensor out = at::empty({rows.size(0), total_rows(weights)}, x.options());
    if (const Tensor merged = merged_view(weights); merged.defined()) {
      gemm32_out(out, rows, merged.t());
    } else {
      std::int64_t column = 0;
      for (const Tensor& weight : weights) {
        gemm32_out(out.narrow(1, column, weight.size(0)), rows, weight.t());
        column += weight.size(0);
      }
    }
    save_linear(ctx, weights.vec(), x, x);
    return out.view(with_last(x, out.size(1)));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_grads) {
    const SavedLinear saved(ctx);
    const variable_list& weights = saved.others();
    if (torch::GradMode::is_enabled()) return grads_with_graph(saved, output_grads);
    const Tensor g = as_rows(output_grads.front());
    const Tensor merged = merged_view(weights);
    variable_list grads(weights.size() + 1);
    if (ctx->needs_input_grad(0)) grads[0] = saved.input_grad(input_grad(g, weights, merged));
    if (!needs_any_weight_grad(*ctx, weights.size())) return grads;
    const Tensor rows = as_rows(saved.input(grads[0]));
    if (Tensor sum = weight_grad_in_place(weights); sum.defined())
      gemm32_add(sum, g.t(), rows);
    else
      split_rows(gemm32(g.t(), rows), row_counts(weights), grads);
    return grads;
  }

 private:
  static variable_list grads_with_graph(const SavedLinear& saved, const variable_list& grads) {
    variable_list inputs{saved.input({})};
    inputs.insert(inputs.end(), saved.others().begin(), saved.others().end());
    return reference_grads(
        [](const variable_list& in) {
          return variable_list{reference_linear(in[0], {in.begin() + 1, in.end()})};
        },
        inputs, grads);
  }

  static Tensor input_grad(const Tensor& g, const variable_list& weights, const Tensor& merged) {
    if (merged.defined()) return gemm32(g, merged);
    Tensor dx;
    std::int64_t column = 0;
    for (const Tensor& weight : weights) {
      const Tensor part = g.narrow(1, column, weight.size(0));
      if (dx.defined())
        gemm32_add(dx, part, weight);
      else
        dx = gemm32(part, weight);
      column += weight.size(0);
    }
    return dx;
  }
};

/// Weights marked to stay in fp32 take x upcast; the others share their rounding of it.
Tensor merged_with_kept(const Tensor& x, const std::vector<Tensor>& weights) {
  const Tensor wide = upcast(x);
  std::vector<Tensor> rounded, outputs;
  std::vector<std::int64_t> counts;
  for (const Tensor& weight : weights) {
    if (keeps_fp32(weight)) continue;
    rounded.push_back(weight);
    counts.push_back(weight.size(0));
  }
  if (rounded.empty()) {
    const KeepFp32Scope scope(weights.front());
    const Int8Matmul no_int8({.enabled = false});
    for (const Tensor& weight : weights) outputs.push_back(upcast(weight));
    return merged_linear(wide, outputs);
  }
  const std::vector<Tensor> products = merged_linear(x, rounded).split_with_sizes(counts, -1);
  auto product = products.begin();
  for (const Tensor& weight : weights) {
    const KeepFp32Scope scope(weight);
    outputs.push_back(keeps_fp32(weight) ? at::linear(wide, upcast(weight)) : *product++);
  }
  return at::cat(outputs, -1);
}

/// merged_linear(), by the way that dtype, device and regions call for.
Tensor product_of(const Tensor& x, const std::vector<Tensor>& weights) {
  const ScalarType dtype = compute_dtype(x);
  const bool autocast = at::autocast::is_autocast_enabled(x.device().type());
  if (weights.size() > 1 && !is_fused(FusedKernel::kMergedLinear))
    return reference_matmuls(x, weights, halftone::linear);
  const bool int8 = dtype == torch::kFloat && is_int8_matmul_enabled();
  if ((autocast || int8) && std::any_of(weights.begin(), weights.end(), keeps_fp32))
    return merged_with_kept(x, weights);
  if (!int8 && takes_matvec(x, weights, dtype)) return matvec(x, weights, dtype);
  if (x.is_cpu() && is_half(dtype)) return MergedHalf::apply(x, at::TensorList(weights), dtype);
  if (int8) return int8_merged_linear(x, weights);
  if (x.is_cpu() && dtype == torch::kFloat && x.numel() > 0)
    return Merged32::apply(x, at::TensorList(weights));
  return reference_linear(x, weights);
}

void check(const Tensor& x, const std::vector<Tensor>& weights, bool autocast) {
  HALFTONE_CHECK(!weights.empty(), "[linear] expected at least one weight, got none");
  for (const Tensor& weight : weights) {
    HALFTONE_CHECK(x.dim() >= 1 && weight.dim() == 2 && x.size(-1) == weight.size(1),
                   "[linear] expected x (..., in) and weight (out, in), got ", x.sizes(), " and ",
                   weight.sizes());
    HALFTONE_CHECK(autocast || weight.scalar_type() == x.scalar_type(),
                   "[linear] expected x and weight of one dtype, got ", x.scalar_type(), " and ",
                   weight.scalar_type(), "; convert one or turn autocast on");
  }
}

}  // namespace

ScalarType compute_dtype(const Tensor& x) {
  const auto device = x.device().type();
  const bool eligible = x.is_floating_point() && x.scalar_type() != torch::kDouble;
  return eligible && at::autocast::is_autocast_enabled(device)
             ? at::autocast::get_autocast_dtype(device)
             : x.scalar_type();
}

ScalarType input_dtype(const Tensor& x, const std::vector<Tensor>& weights) {
  const bool kept = std::any_of(weights.begin(), weights.end(), keeps_fp32);
  return kept ? x.scalar_type() : compute_dtype(x);
}

Tensor merged_linear(const Tensor& x, const std::vector<Tensor>& weights) {
  check(x, weights, at::autocast::is_autocast_enabled(x.device().type()));
  ObservedOperation observed("halftone::linear", x, weights);
  const Tensor out = product_of(x, weights);
  if (observed) observed.set_outputs(columns_by_weight(out, weights));
  return out;
}

Tensor linear(const Tensor& x, const Tensor& weight) { return merged_linear(x, {weight}); }

}  // namespace halftone
