// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/linear.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/kernels/common/fused_kernels.h"
#include "halftone/kernels/common/matrix_rows_impl.h"
#include "halftone/kernels/common/merged_weights_impl.h"
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/common/reference_grads_impl.h"
#include "halftone/kernels/gemm/matmul_format.h"
#include "halftone/kernels/gemm/matvec.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/fused_grad_accumulation.h"
#include "halftone/kernels/linear/layer_formats.h"
#include "halftone/kernels/linear/saved_linear_impl.h"
#include "halftone/kernels/linear/stored_weights.h"
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

/// merged_linear() in one of our formats.
struct MergedLinear : torch::autograd::Function<MergedLinear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, at::TensorList weights,
                        const LinearCall& call) {
    const MatmulFormat& format = matmul_format(call.type);
    const OperandPtr rows = format.input(as_rows(x));
    const OperandPtr weight = weight_operand(call.context, call.type, weights);
    const Tensor out = format.forward_to(*rows, *weight, call.dtype);
    save_linear(ctx, call, x, *rows, weights, *weight);
    return out.view(with_last(x, out.size(1)));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_grads) {
    const SavedLinear saved(ctx);
    const LinearCall& call = saved.call();
    const MatmulFormat& format = matmul_format(call.type);
    if (torch::GradMode::is_enabled()) return grads_with_graph(saved, output_grads);
    const variable_list& weights = saved.weights();
    const OperandPtr g =
        format.gradient(as_rows(output_grads.front()), {call.stream, random_word(call.stream, 1)});
    variable_list grads(weights.size() + 2);  // x, the weights, the call
    if (ctx->needs_input_grad(0))
      grads[0] =
          saved.input_grad(format.input_gradient(*g, *saved.weight(), saved.input_grad_dtype()));
    if (!needs_any_weight_grad(*ctx, weights.size())) return grads;
    const OperandPtr rows = format.input(as_rows(saved.input(grads[0])));
    if (const Tensor sum = weight_grad_in_place(call.context, weights); sum.defined())
      format.add_weight_gradient(*g, *rows, sum, 1.0);
    else
      split_rows(format.weight_gradient(*g, *rows, weight_grad_dtype(weights.front())),
                 row_counts(weights), grads);
    return grads;
  }

 private:
  static variable_list grads_with_graph(const SavedLinear& saved, const variable_list& grads) {
    const ComputeType type = saved.call().type;
    HALFTONE_CHECK(!matmul_format(type).rounds(),
                   "[linear] expected a first derivative, got create_graph: a linear layer in ",
                   to_string(type), " can be differentiated once");
    variable_list inputs{saved.input({})};
    inputs.insert(inputs.end(), saved.weights().begin(), saved.weights().end());
    variable_list all = reference_grads(
        [](const variable_list& in) {
          return variable_list{reference_linear(in[0], {in.begin() + 1, in.end()})};
        },
        inputs, grads);
    all.emplace_back();  // the call
    return all;
  }
};

/// merged_linear() in fp32, whatever the regions say.
Tensor unrounded_linear(const Tensor& x, const std::vector<Tensor>& weights) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  ComputeContext context = compute_context_in(ComputeType::kFloat32);
  context.layer_formats.reset();
  const ComputeScope unrounded(std::move(context));
  std::vector<Tensor> wide;
  for (const Tensor& weight : weights) wide.push_back(upcast(weight));
  return merged_linear(upcast(x), wide);
}

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
  if (rounded.empty()) return unrounded_linear(wide, weights);
  const std::vector<Tensor> products = merged_linear(x, rounded).split_with_sizes(counts, -1);
  auto product = products.begin();
  for (const Tensor& weight : weights) {
    const KeepFp32Scope scope(weight);
    outputs.push_back(keeps_fp32(weight) ? at::linear(wide, upcast(weight)) : *product++);
  }
  return at::cat(outputs, -1);
}

/// Who multiplies in formats that do not quantize.
enum class Matmuls { kOurs, kLibTorchs };

/// merged_linear() in the format `type`, between tensors of `dtype`.
Tensor product_in(const Tensor& x, const std::vector<Tensor>& weights, ComputeType type,
                  ScalarType dtype, Matmuls matmuls) {
  const bool quantized = is_quantized(type);
  if (!quantized && tensor_dtype(type) == dtype) {
    if (matmuls == Matmuls::kLibTorchs) return reference_linear(x, weights);
    if (takes_matvec(x, weights, dtype)) return matvec(x, weights, dtype);
    if (!matmul_format(type).rounds() && x.numel() == 0) return reference_linear(x, weights);
  }
  if (type == ComputeType::kFloat32 && dtype != torch::kFloat) return unrounded_linear(x, weights);
  const ComputeContext& context = compute_context();
  const LinearCall call{.type = type,
                        .dtype = dtype,
                        .stream = quantized ? context.streams.next() : 0,
                        .context = context};
  return MergedLinear::apply(x, at::TensorList(weights), call);
}

/// merged_linear() of layers of which some have formats of their own: those of one format share a
/// matmul.
Tensor product_by_format(const Tensor& x, const std::vector<Tensor>& weights, ComputeType recipe,
                         Matmuls matmuls) {
  const ScalarType dtype = tensor_dtype(recipe);
  std::vector<ComputeType> types;
  for (const Tensor& weight : weights) types.push_back(layer_format(weight).value_or(recipe));
  std::vector<Tensor> outputs(weights.size());
  for (std::size_t first = 0; first < weights.size(); ++first) {
    if (outputs[first].defined()) continue;
    std::vector<Tensor> same;
    std::vector<std::int64_t> counts;
    for (std::size_t i = first; i < weights.size(); ++i) {
      if (types[i] != types[first]) continue;
      same.push_back(weights[i]);
      counts.push_back(weights[i].size(0));
    }
    const Tensor product = product_in(x, same, types[first], dtype, matmuls);
    if (same.size() == weights.size()) return product;
    const std::vector<Tensor> parts = product.split_with_sizes(counts, -1);
    auto part = parts.begin();
    for (std::size_t i = first; i < weights.size(); ++i)
      if (types[i] == types[first]) outputs[i] = *part++;
  }
  return at::cat(outputs, -1);
}

/// merged_linear(), by the way that dtype and regions call for.
Tensor product_of(const Tensor& x, const std::vector<Tensor>& weights, Matmuls matmuls) {
  if (const StoredWeights* stored = stored_weights_of(weights.front()))
    return stored->linear(x, weights, compute_dtype(x));
  if (weights.size() > 1 && !is_fused(FusedKernel::kMergedLinear))
    return reference_matmuls(x, weights, halftone::linear);
  const std::optional<ComputeType> type = linear_type(x);
  const bool rounds = (type && is_quantized(*type)) || is_autocast_on(x.device().type());
  if (rounds && std::any_of(weights.begin(), weights.end(), keeps_fp32))
    return merged_with_kept(x, weights);
  if (!type) return reference_linear(x, weights);
  if (compute_context().layer_formats) return product_by_format(x, weights, *type, matmuls);
  return product_in(x, weights, *type, tensor_dtype(*type), matmuls);
}

void check(const Tensor& x, at::TensorList weights, bool autocast) {
  HALFTONE_CHECK(!weights.empty(), "[linear] expected at least one weight, got none");
  for (const Tensor& weight : weights) {
    HALFTONE_CHECK(x.dim() >= 1 && weight.dim() == 2 && x.size(-1) == weight.size(1),
                   "[linear] expected x (..., in) and weight (out, in), got ", x.sizes(), " and ",
                   weight.sizes());
    HALFTONE_CHECK(autocast || weight.scalar_type() == x.scalar_type() || stored_weights_of(weight),
                   "[linear] expected x and weight of one dtype, got ", x.scalar_type(), " and ",
                   weight.scalar_type(), "; convert one or turn autocast on");
  }
}

template <Matmuls matmuls>
Tensor linear_by(const Tensor& x, at::TensorList weights) {
  check(x, weights, is_autocast_on(x.device().type()));
  return product_of(x, weights.vec(), matmuls);
}

const Operator<Tensor(const Tensor&, at::TensorList)> linear_operator(
    "linear(Tensor x, Tensor[] weights) -> Tensor", {.reference = linear_by<Matmuls::kLibTorchs>,
                                                     .autograd = linear_by<Matmuls::kOurs>,
                                                     .cpu = linear_by<Matmuls::kOurs>,
                                                     .meta = linear_by<Matmuls::kOurs>});

}  // namespace

ScalarType compute_dtype(const Tensor& x) {
  const auto device = x.device().type();
  const bool eligible = x.is_floating_point() && x.scalar_type() != torch::kDouble;
  return eligible && is_autocast_on(device)
             ? at::autocast::get_autocast_dtype(autocast_device(device))
             : x.scalar_type();
}

std::optional<ComputeType> linear_type(const Tensor& x) {
  const ScalarType dtype = compute_dtype(x);
  const ComputeType asked = compute_context().compute;
  return is_quantized(asked) && tensor_dtype(asked) == dtype ? asked : compute_type_of(dtype);
}

ScalarType input_dtype(const Tensor& x, const std::vector<Tensor>& weights) {
  const bool wide = std::any_of(weights.begin(), weights.end(), [](const Tensor& weight) {
    return keeps_fp32(weight) || layer_format(weight) == ComputeType::kFloat32;
  });
  return wide ? x.scalar_type() : compute_dtype(x);
}

Tensor merged_linear(const Tensor& x, const std::vector<Tensor>& weights) {
  return linear_operator(x, weights);
}

Tensor linear(const Tensor& x, const Tensor& weight) { return linear_operator(x, {weight}); }

}  // namespace halftone
