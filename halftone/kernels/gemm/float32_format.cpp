// SPDX-License-Identifier: Apache-2.0
// fp32: operands as they are. Weights that lie apart are multiplied one by one, each to its place
// in the result: nothing is copied.
#include <ATen/ops/empty.h>

#include <cstdint>
#include <utility>

#include "halftone/kernels/common/merged_weights_impl.h"
#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/kernels/gemm/gemm32.h"
#include "halftone/kernels/gemm/matmul_format.h"

namespace halftone {
namespace {

using torch::ScalarType;
using torch::Tensor;

struct Float32Matrix : Operand {
  explicit Float32Matrix(Tensor values) : matrix(std::move(values)) {}
  Tensor matrix;
};

struct Float32Weights : Operand {
  explicit Float32Weights(at::TensorList list) {
    for (const Tensor& weight : list) weights.push_back(weight.to(torch::kFloat));
    if (const Tensor merged = merged_view(weights); merged.defined()) weights = {merged};
  }
  std::vector<Tensor> weights;  // one where they lie below each other in memory
};

class Float32MatmulFormat : public MatmulFormat {
 public:
  bool rounds() const override { return false; }

  OperandPtr input(const Tensor& x) const override {
    return std::make_shared<Float32Matrix>(x.to(torch::kFloat));
  }
  OperandPtr weight(at::TensorList weights, const std::vector<Tensor>& /*kept*/) const override {
    return std::make_shared<Float32Weights>(weights);
  }
  OperandPtr gradient(const Tensor& g, const GradientStreams& /*streams*/) const override {
    return std::make_shared<Float32Matrix>(g);
  }

  Tensor forward(Operand& x, Operand& weight) const override {
    const Tensor& rows = matrix_of(x);
    const std::vector<Tensor>& weights = weights_of(weight);
    const Tensor out = at::empty({rows.size(0), total_rows(weights)}, rows.options());
    std::int64_t column = 0;
    for (const Tensor& one : weights) {
      gemm32_out(weights.size() == 1 ? out : out.narrow(1, column, one.size(0)), rows, one.t());
      column += one.size(0);
    }
    return out;
  }

  Tensor input_gradient(Operand& g, Operand& weight, ScalarType out) const override {
    const std::vector<Tensor>& weights = weights_of(weight);
    if (weights.size() == 1) return gemm32(matrix_of(g), weights.front()).to(out);
    Tensor sum;
    std::int64_t column = 0;
    for (const Tensor& one : weights) {
      const Tensor part = matrix_of(g).narrow(1, column, one.size(0));
      if (sum.defined())
        gemm32_add(sum, part, one);
      else
        sum = gemm32(part, one);
      column += one.size(0);
    }
    return sum.to(out);
  }

  Tensor weight_gradient(Operand& g, Operand& x, ScalarType out) const override {
    return gemm32(matrix_of(g).t(), matrix_of(x)).to(out);
  }

  void add_weight_gradient(Operand& g, Operand& x, const Tensor& sum,
                           double factor) const override {
    gemm32_add(sum, matrix_of(g).t(), matrix_of(x), factor);
  }

  int kept_kernels(std::int64_t rows, std::int64_t in, std::int64_t out) const override {
    return goes_to_onednn(rows * in * out) ? 3 : 0;
  }

 private:
  static const Tensor& matrix_of(Operand& operand) {
    return static_cast<Float32Matrix&>(operand).matrix;
  }
  static const std::vector<Tensor>& weights_of(Operand& operand) {
    return static_cast<Float32Weights&>(operand).weights;
  }
};

}  // namespace

const MatmulFormat& float32_format() {
  static const Float32MatmulFormat format;
  return format;
}

}  // namespace halftone
