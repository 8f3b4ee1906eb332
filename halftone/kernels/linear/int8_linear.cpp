// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/int8_linear.h"

#include <ATen/ops/cat.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/kernels/common/matrix_rows_impl.h"
#include "halftone/kernels/common/recorded_op_impl.h"
#include "halftone/kernels/gemm/int8_gemm.h"
#include "halftone/kernels/linear/fused_grad_accumulation.h"
#include "halftone/kernels/linear/merged_weights_impl.h"
#include "halftone/kernels/linear/saved_input_impl.h"
#include "halftone/kernels/linear/weight_cache.h"

namespace halftone {

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

thread_local Int8Matmul* innermost_int8 = nullptr;

}  // namespace

Int8Matmul::Int8Matmul(const Int8Options& options) : options_(options), outer_(innermost_int8) {
  innermost_int8 = this;
}

Int8Matmul::~Int8Matmul() { innermost_int8 = outer_; }

Int8Options int8_options() {
  return innermost_int8 != nullptr ? innermost_int8->options_ : Int8Options{.enabled = false};
}

std::uint64_t next_int8_stream() {
  if (innermost_int8 == nullptr) return 0;
  Int8Options& options = innermost_int8->options_;
  return random_word(random_word(options.seed, options.step), options.call++);
}

namespace {

/// sum_t g[t] x[t]^T of more rows than one integer sum can hold, too; added to `sum` if that is
/// defined.
Tensor weight_gradient(const Tensor& g, const std::vector<Int8Matrix>& x_parts,
                       std::uint64_t stream, Tensor sum) {
  for (std::size_t i = 0; i < x_parts.size(); ++i) {
    const auto first = static_cast<std::int64_t>(i) * kMaxInt8Depth;
    const Tensor part = g.narrow(0, first, x_parts[i].depth);
    sum = int8_gemm(quantize_left(part.t(), {true, random_word(stream, i)}), x_parts[i], sum);
  }
  return sum;
}

std::vector<Int8Matrix> by_token(const Tensor& rows) {
  std::vector<Int8Matrix> parts;
  for (std::int64_t first = 0; first == 0 || first < rows.size(0); first += kMaxInt8Depth)
    parts.push_back(quantize_right(
        rows.narrow(0, first, std::min(kMaxInt8Depth, rows.size(0) - first)).t(), {}));
  return parts;
}

Tensor all_weights(at::TensorList weights) {
  const Tensor merged = merged_view(weights);
  return merged.defined() ? merged : at::cat(weights);
}

Int8Matrix quantized_weights(at::TensorList weights, bool transposed) {
  return cached_quantize(weights, transposed, [&] {
    const Tensor all = all_weights(weights);
    return quantize_right(transposed ? all.t() : all, {});
  });
}

struct Merged8 : torch::autograd::Function<Merged8> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, at::TensorList weights,
                        std::int64_t stream) {
    const Tensor out = int8_gemm(quantize_left(as_rows(x), {}), quantized_weights(weights, false));
    save_linear(ctx, weights.vec(), x, x);
    ctx->saved_data["stream"] = stream;
    return out.view(with_last(x, out.size(1)));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_grads) {
    HALFTONE_CHECK(!torch::GradMode::is_enabled(),
                   "[int8_linear] expected a first derivative, got create_graph: an int8 linear "
                   "layer can be differentiated once");
    const SavedLinear saved(ctx);
    const variable_list& weights = saved.others();
    const auto stream = std::bit_cast<std::uint64_t>(ctx->saved_data["stream"].toInt());
    const Tensor g = as_rows(output_grads.front());
    variable_list grads(weights.size() + 2);  // x, the weights, the stream
    if (ctx->needs_input_grad(0)) {
      const Int8Matrix left = quantize_left(g, {true, random_word(stream, 0)});
      grads[0] = saved.input_grad(int8_gemm(left, quantized_weights(weights, true)));
    }
    if (!needs_any_weight_grad(*ctx, weights.size())) return grads;
    const Tensor in_place = weight_grad_in_place(weights);
    const std::vector<Int8Matrix> x_parts = by_token(as_rows(saved.input(grads[0])));
    const Tensor dw = weight_gradient(g, x_parts, random_word(stream, 1), in_place);
    if (!in_place.defined()) split_rows(dw, row_counts(weights), grads);
    return grads;
  }
};

}  // namespace

Tensor int8_merged_linear(const Tensor& x, const std::vector<Tensor>& weights) {
  const std::uint64_t stream = next_int8_stream();
  ObservedOperation observed("halftone::int8_linear", x, weights);
  const Tensor out =
      Merged8::apply(x, at::TensorList(weights), std::bit_cast<std::int64_t>(stream));
  if (observed) observed.set_outputs(columns_by_weight(out, weights));
  return out;
}

}  // namespace halftone
