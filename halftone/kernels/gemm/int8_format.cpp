// SPDX-License-Identifier: Apache-2.0
// int8: each matmul's two operands have one scale for each row of the matrix whose rows it sums
// along (weights being one matrix), x and W are rounded to the nearest, gradients stochastically.
// Sums are exact, results fp32; among layers of a 16-bit format, rounded to it.
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "halftone/core/random.h"
#include "halftone/kernels/common/merged_weights_impl.h"
#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/kernels/gemm/int8_gemm.h"
#include "halftone/kernels/gemm/matmul_format.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;
/// Of a depth that may be more than one integer sum can hold.
using Int8Parts = std::vector<Int8Matrix>;

/// Calls `part(i, first, depth)` for each part of a sum over `depth` terms, of which there is one
/// at least.
template <class Part>
void for_each_part(std::int64_t depth, Part&& part) {
  std::int64_t first = 0;
  std::uint64_t i = 0;
  do {
    const std::int64_t count = std::min(kMaxInt8Depth, depth - first);
    part(i++, first, count);
    first += count;
  } while (first < depth);
}

/// `matrix` (rows, depth) as a right operand.
Int8Parts quantize_right_parts(const Tensor& matrix) {
  Int8Parts parts;
  for_each_part(matrix.size(1), [&](std::uint64_t /*i*/, std::int64_t first, std::int64_t depth) {
    parts.push_back(quantize_right(matrix.narrow(1, first, depth), {}));
  });
  return parts;
}

/// left right^T in the dtype `out`, added to `sum` where that is defined (then fp32). `quantized(i,
/// matrix)` gives a part of `left` (rows, depth).
template <class Quantize>
Tensor multiply_parts(const Tensor& left, const Int8Parts& right, Tensor sum, ScalarType out,
                      const Quantize& quantized) {
  const bool rounds_once = right.size() == 1 && !sum.defined();
  for_each_part(left.size(1), [&](std::uint64_t i, std::int64_t first, std::int64_t depth) {
    sum = int8_gemm(quantized(i, left.narrow(1, first, depth)), right[i], sum,
                    rounds_once ? out : torch::kFloat);
  });
  return sum.to(out);
}

/// The same of a gradient, with a random stream for each part.
Tensor multiply_gradient(const Tensor& gradient, std::uint64_t stream, const Int8Parts& right,
                         const Tensor& sum, ScalarType out) {
  return multiply_parts(gradient, right, sum, out, [&](std::uint64_t i, const Tensor& part) {
    return quantize_left(part, {true, random_word(stream, i)});
  });
}

/// x, and g: their integers depend on the matmul, and each takes part in one matmul of a kind.
struct Int8Input : Operand {
  explicit Int8Input(Tensor values) : matrix(std::move(values)) {}
  Tensor matrix;
};

struct Int8Gradient : Operand {
  Int8Gradient(Tensor values, const GradientStreams& of) : matrix(std::move(values)), streams(of) {}
  Tensor matrix;
  GradientStreams streams;
};

class Int8Weights : public Operand {
 public:
  explicit Int8Weights(at::TensorList weights) : weights_(weights.vec()) {}

  const Int8Parts& by_output() {
    if (by_output_.empty()) by_output_ = quantize_right_parts(all());
    return by_output_;
  }
  const Int8Parts& by_input() {
    if (by_input_.empty()) by_input_ = quantize_right_parts(all().t());
    return by_input_;
  }

 private:
  Tensor all() const {
    const Tensor merged = merged_view(weights_);
    return merged.defined() ? merged : at::cat(weights_);
  }

  std::vector<Tensor> weights_;
  Int8Parts by_output_;
  Int8Parts by_input_;
};

class Int8MatmulFormat : public MatmulFormat {
 public:
  OperandPtr input(const Tensor& x) const override { return std::make_shared<Int8Input>(x); }
  OperandPtr weight(at::TensorList weights, const std::vector<Tensor>& /*kept*/) const override {
    return std::make_shared<Int8Weights>(weights);
  }
  OperandPtr gradient(const Tensor& g, const GradientStreams& streams) const override {
    return std::make_shared<Int8Gradient>(g, streams);
  }

  Tensor forward(Operand& x, Operand& weight) const override {
    return forward_to(x, weight, torch::kFloat);
  }
  Tensor forward_to(Operand& x, Operand& weight, ScalarType out) const override {
    return multiply_parts(
        static_cast<Int8Input&>(x).matrix, static_cast<Int8Weights&>(weight).by_output(), {}, out,
        [](std::uint64_t /*i*/, const Tensor& part) { return quantize_left(part, {}); });
  }

  Tensor input_gradient(Operand& g, Operand& weight, ScalarType out) const override {
    const auto& gradient = static_cast<Int8Gradient&>(g);
    return multiply_gradient(gradient.matrix, gradient.streams.input_gradient,
                             static_cast<Int8Weights&>(weight).by_input(), {}, out);
  }

  Tensor weight_gradient(Operand& g, Operand& x, ScalarType out) const override {
    return weight_sum(g, x, {}, 1.0).to(out);
  }

  void add_weight_gradient(Operand& g, Operand& x, const Tensor& sum,
                           double factor) const override {
    if (sum.scalar_type() == torch::kFloat)
      weight_sum(g, x, sum, factor);
    else
      sum.add_(weight_sum(g, x, {}, factor));
  }

  /// FBGEMM's, of one shape each.
  double packed_bytes(double depth, double columns) const override { return depth * columns; }

 private:
  static Tensor weight_sum(Operand& g, Operand& x, const Tensor& sum, double factor) {
    const auto& gradient = static_cast<Int8Gradient&>(g);
    Int8Parts by_token = quantize_right_parts(static_cast<Int8Input&>(x).matrix.t());
    if (factor != 1.0)
      for (Int8Matrix& part : by_token) part.scales.mul_(factor);
    return multiply_gradient(gradient.matrix.t(), gradient.streams.weight_gradient, by_token, sum,
                             torch::kFloat);
  }
};

}  // namespace

const MatmulFormat& int8_format() {
  static const Int8MatmulFormat format;
  return format;
}

}  // namespace halftone
