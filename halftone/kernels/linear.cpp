// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/linear.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/keep_fp32.h"
#include "halftone/kernels/gemm16.h"
#include "halftone/kernels/int8_linear.h"
#include "halftone/kernels/matmul_path.h"
#include "halftone/kernels/matrix_rows_impl.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

MatmulPaths paths_for(ScalarType dtype) {
  const MatmulChoice choice = matmul_paths();
  return dtype == torch::kBFloat16 ? choice.bf16 : choice.fp16;
}

/// What gemm16 takes on `path`: an operand of several products is widened once, not by each.
Tensor operand_for(MatmulPath path, const Tensor& narrow) {
  return path == MatmulPath::kWidened ? narrow.to(torch::kFloat) : narrow;
}

struct Group16 : torch::autograd::Function<Group16> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, at::TensorList weights,
                               ScalarType dtype) {
    const MatmulPath path = paths_for(dtype).forward;
    const Tensor rows = as_rows(x.to(dtype));
    const Tensor operand = operand_for(path, rows);
    variable_list saved{rows};
    variable_list outputs;
    for (const Tensor& weight : weights) {
      const Tensor rounded = weight.to(dtype);
      outputs.push_back(
          gemm16(operand, rounded.t(), dtype, path).view(with_last(x, weight.size(0))));
      saved.push_back(rounded);
    }
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["shape"] = x.sizes().vec();
    ctx->saved_data["x_dtype"] = static_cast<std::int64_t>(x.scalar_type());
    ctx->saved_data["w_dtype"] = static_cast<std::int64_t>(weights.front().scalar_type());
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_grads) {
    HALFTONE_CHECK(!torch::GradMode::is_enabled(),
                   "[linear] expected a first derivative, got create_graph: a 16-bit linear layer "
                   "can be differentiated once");
    const variable_list saved = ctx->get_saved_variables();
    const Tensor& rows = saved.front();
    const auto x_dtype = static_cast<ScalarType>(ctx->saved_data["x_dtype"].toInt());
    const auto w_dtype = static_cast<ScalarType>(ctx->saved_data["w_dtype"].toInt());
    const MatmulPaths paths = paths_for(rows.scalar_type());
    const ScalarType sum_dtype = output_grads.size() > 1 ? torch::kFloat : rows.scalar_type();
    const Tensor x_operand = operand_for(paths.weight_gradient, rows);
    Tensor dx;
    variable_list grads(output_grads.size() + 2);  // x, the weights, the dtype
    for (std::size_t i = 0; i < output_grads.size(); ++i) {
      if (!output_grads[i].defined()) continue;
      const Tensor g = as_rows(output_grads[i]).to(rows.scalar_type());
      const Tensor g_operand = operand_for(paths.input_gradient, g);
      if (ctx->needs_input_grad(0)) {
        const Tensor part = gemm16(g_operand, saved[i + 1], sum_dtype, paths.input_gradient);
        dx = dx.defined() ? dx.add_(part) : part;
      }
      if (ctx->needs_input_grad(i + 1))
        grads[i + 1] = gemm16((paths.weight_gradient == paths.input_gradient ? g_operand : g).t(),
                              x_operand, w_dtype, paths.weight_gradient);
    }
    if (dx.defined()) {
      // Rounded as the product of 16-bit operands is, then in the dtype x came in.
      grads[0] = dx.to(x_dtype).view(ctx->saved_data["shape"].toIntVector());
    }
    return grads;
  }
};

/// Weights marked to stay in fp32 take x widened; the others share their rounding of it.
std::vector<Tensor> group_with_kept(const Tensor& x, const std::vector<Tensor>& weights) {
  std::vector<Tensor> rounded;
  std::copy_if(weights.begin(), weights.end(), std::back_inserter(rounded),
               [](const Tensor& weight) { return !keeps_fp32(weight); });
  const std::vector<Tensor> products =
      rounded.empty() ? std::vector<Tensor>{} : linear_group(x, rounded);
  auto product = products.begin();
  const Tensor wide = widened(x);
  std::vector<Tensor> outputs;
  for (const Tensor& weight : weights) {
    const KeepFp32Scope scope(weight);
    outputs.push_back(keeps_fp32(weight) ? at::linear(wide, widened(weight)) : *product++);
  }
  return outputs;
}

}  // namespace

ScalarType compute_dtype(const Tensor& x) {
  const auto device = x.device().type();
  const bool eligible = x.is_floating_point() && x.scalar_type() != torch::kDouble;
  return eligible && at::autocast::is_autocast_enabled(device)
             ? at::autocast::get_autocast_dtype(device)
             : x.scalar_type();
}

std::vector<Tensor> linear_group(const Tensor& x, const std::vector<Tensor>& weights) {
  HALFTONE_CHECK(!weights.empty(), "[linear] expected at least one weight, got none");
  const ScalarType dtype = compute_dtype(x);
  const bool autocast = at::autocast::is_autocast_enabled(x.device().type());
  for (const Tensor& weight : weights) {
    HALFTONE_CHECK(x.dim() >= 1 && weight.dim() == 2 && x.size(-1) == weight.size(1),
                   "[linear] expected x (..., in) and weight (out, in), got ", x.sizes(), " and ",
                   weight.sizes());
    HALFTONE_CHECK(autocast || weight.scalar_type() == x.scalar_type(),
                   "[linear] expected x and weight of one dtype, got ", x.scalar_type(), " and ",
                   weight.scalar_type(), "; convert one or turn autocast on");
  }
  const bool int8 = dtype == torch::kFloat && is_int8_matmul_enabled();
  if ((autocast || int8) && std::any_of(weights.begin(), weights.end(), keeps_fp32))
    return group_with_kept(x, weights);
  if (x.is_cpu() && (dtype == torch::kBFloat16 || dtype == torch::kHalf))
    return Group16::apply(x, at::TensorList(weights), dtype);
  if (int8) return int8_linear_group(x, weights);
  std::vector<Tensor> outputs;
  for (const Tensor& weight : weights) outputs.push_back(at::linear(x, weight));
  return outputs;
}

Tensor linear(const Tensor& x, const Tensor& weight) { return linear_group(x, {weight}).front(); }

}  // namespace halftone
