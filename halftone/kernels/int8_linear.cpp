// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/int8_linear.h"

#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/kernels/int8_gemm.h"
#include "halftone/kernels/matrix_rows_impl.h"

namespace halftone {

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

thread_local Int8Matmul* innermost = nullptr;

}  // namespace

Int8Matmul::Int8Matmul(const Int8Options& options) : options_(options), outer_(innermost) {
  innermost = this;
}

Int8Matmul::~Int8Matmul() { innermost = outer_; }

bool is_int8_matmul_enabled() { return innermost != nullptr && innermost->options_.enabled; }

std::uint64_t next_int8_stream() {
  if (innermost == nullptr) return 0;
  const Int8Options& options = innermost->options_;
  return random_word(random_word(options.seed, options.step), innermost->calls_++);
}

namespace {

/// sum_t g[t] x[t]^T of more rows than one integer sum can hold, too.
Tensor weight_gradient(const Tensor& g, const std::vector<Int8Matrix>& x_parts,
                       std::uint64_t stream) {
  Tensor sum;
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

struct Group8 : torch::autograd::Function<Group8> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, at::TensorList weights,
                               std::int64_t stream) {
    const Tensor rows = as_rows(x);
    const Int8Matrix left = quantize_left(rows, {});
    variable_list saved{rows};
    variable_list outputs;
    for (const Tensor& weight : weights) {
      outputs.push_back(
          int8_gemm(left, quantize_right(weight, {})).view(with_last(x, weight.size(0))));
      saved.push_back(weight);
    }
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["shape"] = x.sizes().vec();
    ctx->saved_data["stream"] = stream;
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& output_grads) {
    HALFTONE_CHECK(!torch::GradMode::is_enabled(),
                   "[int8_linear] expected a first derivative, got create_graph: an int8 linear "
                   "layer can be differentiated once");
    const variable_list saved = ctx->get_saved_variables();
    const auto stream = std::bit_cast<std::uint64_t>(ctx->saved_data["stream"].toInt());
    std::vector<Int8Matrix> x_parts;
    Tensor dx;
    variable_list grads(output_grads.size() + 2);  // x, the weights, the stream
    for (std::size_t i = 0; i < output_grads.size(); ++i) {
      if (!output_grads[i].defined()) continue;
      const Tensor g = as_rows(output_grads[i]);
      const std::uint64_t g_stream = random_word(stream, i);
      if (ctx->needs_input_grad(0))
        dx = int8_gemm(quantize_left(g, {true, random_word(g_stream, 0)}),
                       quantize_right(saved[i + 1].t(), {}), dx);
      if (ctx->needs_input_grad(i + 1)) {
        if (x_parts.empty()) x_parts = by_token(saved.front());
        grads[i + 1] = weight_gradient(g, x_parts, random_word(g_stream, 1));
      }
    }
    if (dx.defined()) grads[0] = dx.view(ctx->saved_data["shape"].toIntVector());
    return grads;
  }
};

}  // namespace

std::vector<Tensor> int8_linear_group(const Tensor& x, const std::vector<Tensor>& weights) {
  const std::uint64_t stream = next_int8_stream();
  return Group8::apply(x, at::TensorList(weights), std::bit_cast<std::int64_t>(stream));
}

}  // namespace halftone
