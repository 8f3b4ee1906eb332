// SPDX-License-Identifier: Apache-2.0
// The three matmuls of a linear layer against fp64, in every format and on each path, as a layer
// uses them and chunk by chunk as an output head does.
#include "halftone/kernels/gemm/matmul_format.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "halftone/kernels/gemm/compute_type.h"
#include "support/fused_op.h"
#include "support/gemm_config_scope.h"

namespace halftone::matmul_format_test {
namespace {

using test::relative_error;
using torch::ScalarType;
using torch::Tensor;

Tensor numbers(at::IntArrayRef shape, double step) {
  return at::arange(c10::multiply_integers(shape), torch::kDouble)
      .mul_(step)
      .sin_()
      .view(shape)
      .to(torch::kFloat);
}

/// A rounding of the result, relative; of fp32 those of its sums.
double tolerance(ScalarType dtype) {
  return dtype == torch::kBFloat16 ? 3e-3 : dtype == torch::kHalf ? 4e-4 : 1e-5;
}

class EveryWay : public testing::TestWithParam<std::tuple<ComputeType, std::string>> {
 protected:
  ComputeType type() const { return std::get<0>(GetParam()); }
  ScalarType dtype() const { return tensor_dtype(type()); }
  const MatmulFormat& format() const { return matmul_format(type()); }
  Tensor exact(const Tensor& x) const { return x.to(dtype()).to(torch::kDouble); }
  test::GemmConfigScope ways_{std::get<1>(GetParam())};
};

TEST_P(EveryWay, MultipliesRoundedOperands) {
  const Tensor a = numbers({5, 13}, 0.37), b = numbers({9, 13}, 0.41);  // they lie apart
  const Tensor x = numbers({7, 13}, 0.11), g = numbers({7, 14}, 0.23);
  const Tensor w = at::cat({exact(a), exact(b)});
  const OperandPtr weight = format().weight({a, b});
  const OperandPtr input = format().input(x), gradient = format().gradient(g, {});
  const Tensor y = format().forward(*input, *weight);
  EXPECT_EQ(y.scalar_type(), dtype());
  EXPECT_TRUE(y.is_contiguous());
  EXPECT_LT(relative_error(y, exact(x).mm(w.t())), tolerance(dtype()));
  const Tensor dx = format().input_gradient(*gradient, *weight, dtype());
  EXPECT_LT(relative_error(dx, exact(g).mm(w)), tolerance(dtype()));
  const Tensor dw = exact(g).t().mm(exact(x));
  EXPECT_LT(relative_error(format().weight_gradient(*gradient, *input, torch::kFloat), dw),
            tolerance(dtype()));
}

TEST_P(EveryWay, TakesAgainWhatItKept) {
  const Tensor w = numbers({6, 5}, 0.3), x = numbers({4, 5}, 0.7), g = numbers({4, 6}, 0.2);
  const OperandPtr input = format().input(x), weight = format().weight({w});
  const auto kept_x = input->kept(), kept_w = weight->kept();
  const OperandPtr input_again = format().input(kept_x.empty() ? x : kept_x.front());
  const OperandPtr weight_again = format().weight({w}, kept_w);
  EXPECT_TRUE(
      format().forward(*input_again, *weight_again).equal(format().forward(*input, *weight)));
}

TEST_P(EveryWay, SumsTheWeightsGradientOfSeveralChunks) {
  // Odd sizes, and so many numbers that a sum is taken in blocks.
  constexpr std::int64_t kVocab = 21001, kDim = 101;
  const Tensor weight = numbers({kVocab, kDim}, 0.37);
  const OperandPtr head = format().weight({weight})->for_many();
  Tensor sum = at::zeros({kVocab, kDim}, torch::kFloat);
  Tensor expected = at::zeros({kVocab, kDim}, torch::kDouble);
  for (const std::int64_t rows : {7, 7, 3}) {
    const Tensor hidden = numbers({rows, kDim}, 0.11 + 0.01 * static_cast<double>(rows));
    const OperandPtr input = format().input(hidden);
    EXPECT_LT(relative_error(format().forward(*input, *head), exact(hidden).mm(exact(weight).t())),
              tolerance(dtype()));
    const Tensor g = numbers({rows, kVocab}, 0.23);
    const OperandPtr gradient = format().gradient(g, {});
    const Tensor d_hidden = format().input_gradient(*gradient, *head, torch::kFloat);
    EXPECT_EQ(d_hidden.scalar_type(), torch::kFloat);
    EXPECT_LT(relative_error(d_hidden, exact(g).mm(exact(weight))), tolerance(dtype()));
    format().add_weight_gradient(*gradient, *input, sum, 0.5);
    expected += 0.5 * exact(g).t().mm(exact(hidden));
    EXPECT_LT(relative_error(sum, expected), tolerance(dtype()));
  }
}

TEST_P(EveryWay, AddsToASumOfItsOwnDtype) {
  const Tensor x = numbers({4, 5}, 0.7), g = numbers({4, 6}, 0.2);
  const OperandPtr input = format().input(x), gradient = format().gradient(g, {});
  Tensor sum = at::ones({6, 5}, dtype());
  format().add_weight_gradient(*gradient, *input, sum, 1.0);
  EXPECT_LT(relative_error(sum, 1 + exact(g).t().mm(exact(x))), 2 * tolerance(dtype()));
}

TEST_P(EveryWay, PassesOnNonFiniteNumbers) {
  const OperandPtr weight = format().weight({numbers({5, 4}, 0.3)});
  Tensor x = numbers({3, 4}, 0.2);
  x[1][2] = INFINITY;
  const Tensor y = format().forward(*format().input(x), *weight);
  EXPECT_FALSE(y[1].isfinite().any().item<bool>());
  EXPECT_TRUE(y[0].isfinite().all().item<bool>());
  EXPECT_TRUE(y[2].isfinite().all().item<bool>());
}

TEST_P(EveryWay, TakesNoRows) {
  const OperandPtr weight = format().weight({numbers({5, 4}, 0.3)});
  const OperandPtr x = format().input(at::zeros({0, 4})),
                   g = format().gradient(at::zeros({0, 5}), {});
  EXPECT_EQ(format().forward(*x, *weight).sizes(), (std::vector<std::int64_t>{0, 5}));
  EXPECT_EQ(format().input_gradient(*g, *weight, dtype()).sizes(),
            (std::vector<std::int64_t>{0, 4}));
  EXPECT_TRUE(format().weight_gradient(*g, *x, torch::kFloat).equal(at::zeros({5, 4})));
}

// Of fp16 alone: what is rounded on the way back is at most so much larger than the gradient.
TEST_P(EveryWay, GrowthBoundsWhatIsRounded) {
  const Tensor w = numbers({50, 16}, 0.3) * 3, x = numbers({4, 16}, 0.2);
  const OperandPtr weight = format().weight({w}), input = format().input(x);
  const auto growth = format().gradient_growth(*input, *weight);
  ASSERT_EQ(growth.has_value(), type() == ComputeType::kFloat16);
  if (!growth) return;
  const bool native = std::get<1>(GetParam()) == "native";
  const double largest_x = x.to(torch::kHalf).abs().max().item<double>();
  const double largest_w = w.to(torch::kHalf).abs().max().item<double>();
  EXPECT_DOUBLE_EQ(*growth, native ? std::max({1.0, 4 * largest_x, 2 * largest_w}) : 1.0);
}

std::string param_name(const testing::TestParamInfo<std::tuple<ComputeType, std::string>>& info) {
  return std::string(to_string(std::get<0>(info.param))) + "_" + std::get<1>(info.param);
}

INSTANTIATE_TEST_SUITE_P(Formats, EveryWay,
                         testing::Combine(testing::Values(ComputeType::kFloat32,
                                                          ComputeType::kBFloat16,
                                                          ComputeType::kFloat16),
                                          testing::Values("native", "upcast")),
                         param_name);

TEST(Int8MatmulFormat, StaysWithinTheQuantisersError) {
  torch::manual_seed(5);
  const MatmulFormat& format = matmul_format(ComputeType::kInt8);
  const Tensor weight = at::randn({301, 64}), hidden = at::randn({9, 64}), g = at::randn({9, 301});
  const Tensor w = weight.to(torch::kDouble), h = hidden.to(torch::kDouble);
  const OperandPtr head = format.weight({weight}), input = format.input(hidden);
  // Rounding to 127 steps of the largest number, uniform: 1 / (127 sqrt(12)) of it on each side.
  const Tensor y = format.forward(*input, *head);
  EXPECT_LT(relative_error(y, h.mm(w.t())), 0.015);
  EXPECT_GT(relative_error(y, h.mm(w.t())), 1e-4);  // it is int8
  const OperandPtr gradient = format.gradient(g, {3, 4});
  const Tensor exact_dx = g.to(torch::kDouble).mm(w);
  EXPECT_LT(relative_error(format.input_gradient(*gradient, *head, torch::kFloat), exact_dx), 0.03);
  Tensor sum = at::zeros({301, 64});
  format.add_weight_gradient(*gradient, *input, sum, 2.0);
  EXPECT_TRUE(
      sum.equal(2 * format.weight_gradient(*gradient, *format.input(hidden), torch::kFloat)));
}

// What rounds by rows makes the operand of each matmul anew, what does not round keeps nothing.
TEST(MatmulFormats, KeepOfAWeightWhatBothPassesMultiply) {
  for (const ComputeType type : compute_types()) {
    const Tensor weight = at::ones({16, 32});
    const OperandPtr operand = matmul_format(type).weight({weight});
    matmul_format(type).forward(*matmul_format(type).input(at::ones({16, 32})), *operand);
    const std::vector<Tensor> kept = operand->kept();
    const bool keeps = type == ComputeType::kBFloat16 || type == ComputeType::kFloat16 ||
                       type == ComputeType::kFloat8;
    ASSERT_EQ(kept.empty(), !keeps) << to_string(type);
    if (keeps) {
      EXPECT_EQ(kept.front().element_size(), 2) << to_string(type);
    }
  }
}

}  // namespace
}  // namespace halftone::matmul_format_test
