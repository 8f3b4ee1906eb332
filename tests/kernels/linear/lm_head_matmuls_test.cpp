// SPDX-License-Identifier: Apache-2.0
// The output head's three matmuls against fp64, chunk by chunk, in every format and on each path.
#include "halftone/kernels/linear/lm_head_matmuls.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <string>
#include <tuple>

#include "halftone/core/dtype.h"
#include "support/fused_op.h"
#include "support/gemm_config_scope.h"

namespace halftone::lm_head_matmuls_test {
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

Tensor exact(const Tensor& x, ScalarType rounded_to) { return x.to(rounded_to).to(torch::kDouble); }

/// A rounding of the result, relative.
double tolerance(ScalarType dtype) {
  return dtype == torch::kBFloat16 ? 3e-3 : dtype == torch::kHalf ? 4e-4 : 3e-6;
}

class LmHeadMatmulsTest : public testing::TestWithParam<std::tuple<ScalarType, std::string>> {
 protected:
  ScalarType dtype() const { return std::get<0>(GetParam()); }
  test::GemmConfigScope ways_{std::get<1>(GetParam())};
};

TEST_P(LmHeadMatmulsTest, AreThoseOfRoundedOperands) {
  // Odd sizes, and so many numbers that the weight's gradient takes two blocks.
  constexpr std::int64_t kVocab = 5501, kDim = 97;
  const Tensor weight = numbers({kVocab, kDim}, 0.37);
  const auto head = lm_head_matmuls(weight, {.dtype = dtype()});
  const Tensor w = exact(weight, dtype());
  Tensor sum;
  Tensor expected_sum = at::zeros({kVocab, kDim}, torch::kDouble);
  for (const std::int64_t rows : {7, 7, 3}) {
    const Tensor hidden = numbers({rows, kDim}, 0.11 + 0.01 * static_cast<double>(rows));
    const Tensor h = exact(hidden, dtype());
    const Tensor logits = head->logits(hidden);
    EXPECT_EQ(logits.scalar_type(), dtype());
    EXPECT_TRUE(logits.is_contiguous());
    EXPECT_LT(relative_error(logits, h.mm(w.t())), tolerance(dtype()));

    const Tensor gradient = numbers({rows, kVocab}, 0.23).to(dtype());
    const Tensor g = gradient.to(torch::kDouble);
    Tensor hidden_gradient = at::full({rows, kDim}, NAN, torch::kFloat);
    head->hidden_gradient(gradient, 0.5, hidden_gradient);
    EXPECT_LT(relative_error(hidden_gradient, 0.5 * g.mm(w)), tolerance(dtype()));

    head->add_weight_gradient(gradient, 0.5, sum);
    expected_sum += 0.5 * g.t().mm(h);
    EXPECT_EQ(sum.scalar_type(), torch::kFloat);
    EXPECT_LT(relative_error(sum, expected_sum), tolerance(dtype()));
  }
}

TEST_P(LmHeadMatmulsTest, PassOnNonFiniteNumbers) {
  const auto head = lm_head_matmuls(numbers({5, 4}, 0.3), {.dtype = dtype()});
  Tensor hidden = numbers({3, 4}, 0.2);
  hidden[1][2] = INFINITY;
  const Tensor logits = head->logits(hidden);
  EXPECT_FALSE(logits[1].isfinite().any().item<bool>());
  EXPECT_TRUE(logits[0].isfinite().all().item<bool>());
  EXPECT_TRUE(logits[2].isfinite().all().item<bool>());
}

TEST_P(LmHeadMatmulsTest, GradientExponentUsesTheRangeAndStaysInside) {
  const auto head = lm_head_matmuls(numbers({50, 16}, 0.3), {.dtype = dtype()});
  head->logits(numbers({4, 16}, 0.2));
  if (dtype() != torch::kHalf) {
    EXPECT_EQ(head->gradient_exponent(1e-9), 0);
    return;
  }
  for (const double largest : {1e-9, 1e-4, 0.5}) {
    const double top = std::ldexp(largest, head->gradient_exponent(largest));
    EXPECT_LE(top, 32768.0);
    EXPECT_GE(top, 32768.0 / 64);  // the bounds of four rows of sums below 2 are taken off
  }
  EXPECT_EQ(head->gradient_exponent(0), 0);
  EXPECT_EQ(head->gradient_exponent(INFINITY), 0);
}

std::string param_name(const testing::TestParamInfo<std::tuple<ScalarType, std::string>>& param) {
  return dtype_name(std::get<0>(param.param)) + "_" + std::get<1>(param.param);
}

INSTANTIATE_TEST_SUITE_P(Formats, LmHeadMatmulsTest,
                         testing::Combine(testing::Values(torch::kFloat, torch::kBFloat16,
                                                          torch::kHalf),
                                          testing::Values("native", "upcast")),
                         param_name);

TEST(LmHeadMatmulsInt8, StayWithinTheQuantisersError) {
  torch::manual_seed(5);
  const Tensor weight = at::randn({301, 64});
  const auto head = lm_head_matmuls(weight, {.int8 = true, .stream = 3});
  const Tensor hidden = at::randn({9, 64});
  const Tensor w = weight.to(torch::kDouble), h = hidden.to(torch::kDouble);
  // Rounding to 127 steps of the largest number, uniform: 1 / (127 sqrt(12)) of it on each side.
  EXPECT_LT(relative_error(head->logits(hidden), h.mm(w.t())), 0.015);
  EXPECT_GT(relative_error(head->logits(hidden), h.mm(w.t())), 1e-4);  // it is int8
  const Tensor gradient = at::randn({9, 301});
  Tensor hidden_gradient = at::empty({9, 64}, torch::kFloat);
  head->hidden_gradient(gradient, 2.0, hidden_gradient);
  EXPECT_LT(relative_error(hidden_gradient, 2 * gradient.to(torch::kDouble).mm(w)), 0.03);
}

}  // namespace
}  // namespace halftone::lm_head_matmuls_test
