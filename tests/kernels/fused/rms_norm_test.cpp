// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/fused/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/fused_op.h"
#include "support/instruction_sets.h"
#include "support/on_devices.h"

namespace halftone::rms_norm_test {
namespace {

using test::expect_equals_definition;
using torch::Tensor;
using Tensors = std::vector<Tensor>;

constexpr double kEps = 1e-5;

Tensors add_norm(const Tensors& in) {
  const NormedSum out = add_rms_norm(in[0], in[1], in[2], kEps);
  return {out.sum, out.normed};
}

// Written out, on fp64 inputs.
Tensors formula(const Tensors& in) {
  const Tensor sum = in[1].defined() ? in[0] + in[1] : in[0] * 1.0;
  return {sum, sum / (sum.square().mean(-1, true) + kEps).sqrt() * in[2]};
}

using AddRmsNormOn = test::OnDevices;
HALFTONE_ON_DEVICES(AddRmsNormOn);

TEST_P(AddRmsNormOn, EqualsTheFormulaOnOddSizesInEveryDtype) {
  torch::manual_seed(1);
  test::for_each_instruction_set([this] {
    for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
      for (const std::int64_t width : {1, 7, 16, 33, 512}) {
        for (const bool with_branch : {false, true}) {
          const Tensor x = torch::randn({3, 67, width}).to(dtype);
          const Tensor branch = with_branch ? torch::randn({3, 67, width}).to(dtype) : Tensor();
          const Tensor weight = torch::randn({width}).to(dtype);
          expect_equals_definition(add_norm, formula, here({x, branch, weight}),
                                   2 * test::tolerance_of(dtype));
        }
      }
    }
  });
}

TEST_P(AddRmsNormOn, A16BitBranchJoinsAnFp32Stream) {
  torch::manual_seed(2);
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    const Tensors in =
        here({torch::randn({5, 24}), torch::randn({5, 24}).to(dtype), torch::randn({24})});
    const test::ValuesAndGradients out = test::differentiate(add_norm, in);
    EXPECT_EQ(out.values[0].scalar_type(), torch::kFloat);
    EXPECT_TRUE(out.values[0].equal(in[0] + in[1]));
    EXPECT_EQ(out.gradients[1].scalar_type(), dtype);
    EXPECT_TRUE(out.gradients[1].equal(out.gradients[0].to(dtype)));
    expect_equals_definition(add_norm, formula, in, test::tolerance_of(dtype));
  }
}

TEST_P(AddRmsNormOn, NarrowsTheNormedValuesAsTheNextProductWould) {
  torch::manual_seed(8);
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    for (const bool with_branch : {false, true}) {
      const Tensor branch = with_branch ? torch::randn({9, 37}).to(dtype) : Tensor();
      const Tensors in = here({torch::randn({9, 37}), branch, torch::randn({37})});
      const auto narrow = [dtype](const Tensors& x) {
        const NormedSum out = add_rms_norm(x[0], x[1], x[2], kEps, dtype);
        return Tensors{out.sum, out.normed};
      };
      const auto cast = [dtype](const Tensors& x) {
        const NormedSum out = add_rms_norm(x[0], x[1], x[2], kEps);
        return Tensors{out.sum, out.normed.to(dtype)};
      };
      const test::ValuesAndGradients ours = test::differentiate(narrow, in);
      const test::ValuesAndGradients theirs = test::differentiate(cast, in);
      EXPECT_EQ(ours.values[1].scalar_type(), dtype);
      for (std::size_t i = 0; i < 2; ++i) EXPECT_TRUE(ours.values[i].equal(theirs.values[i]));
      for (std::size_t i = 0; i < ours.gradients.size(); ++i)
        EXPECT_TRUE(ours.gradients[i].equal(theirs.gradients[i]));
    }
  }
  const Tensors wide = here({torch::randn({3, 8}), torch::randn({3, 8}), torch::randn({8})});
  const NormedSum mixed = add_rms_norm(wide[0], wide[1], wide[2], kEps, torch::kBFloat16);
  EXPECT_TRUE(mixed.normed.equal(
      add_rms_norm(wide[0], wide[1], wide[2], kEps).normed.to(torch::kBFloat16)));
}

TEST_P(AddRmsNormOn, TakesStridedAndUnalignedOperands) {
  torch::manual_seed(3);
  const Tensor store = here(torch::randn({6, 40}));
  const Tensors in{store.narrow(1, 1, 19), store.t().narrow(0, 20, 19).t(),
                   here(torch::randn({20})).narrow(0, 1, 19)};
  expect_equals_definition(add_norm, formula, in, 4e-6);
}

TEST_P(AddRmsNormOn, TakesNoRows) {
  const Tensors in = here({torch::zeros({0, 8}), torch::zeros({0, 8}), torch::ones({8})});
  const test::ValuesAndGradients out = test::differentiate(add_norm, in);
  EXPECT_EQ(out.values[1].sizes(), (std::vector<std::int64_t>{0, 8}));
  EXPECT_TRUE(out.gradients[2].equal(here(torch::zeros({8}))));
}

TEST_P(AddRmsNormOn, NonFiniteRowsStayVisible) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const Tensor x = here(torch::ones({3, 20}));
    x[1][18] = bad;
    const NormedSum out = add_rms_norm(x, torch::ones_like(x), torch::ones_like(x[0]), kEps);
    EXPECT_FALSE(out.normed[1][18].isfinite().item<bool>());
    EXPECT_TRUE(out.normed[0].isfinite().all().item<bool>());
    EXPECT_TRUE(out.normed[2].isfinite().all().item<bool>());
  }
}

TEST(AddRmsNorm, DoesNotDependOnTheNumberOfThreads) {
  torch::manual_seed(4);
  EXPECT_TRUE(test::is_thread_independent(
      add_norm, {torch::randn({301, 50}), torch::randn({301, 50}), torch::randn({50})}));
}

TEST_P(AddRmsNormOn, OneOfTheTwoGradientsMayBeMissing) {
  torch::manual_seed(5);
  for (const std::size_t used : {0, 1}) {
    const auto only = [used](const auto& operation) {
      return [used, operation](const Tensors& in) { return Tensors{operation(in)[used]}; };
    };
    const Tensors in = here({torch::randn({4, 10}), torch::randn({4, 10})});
    const Tensor weight = here(torch::randn({10}));
    const auto with_weight = [&](const auto& operation) {
      return [&, operation](const Tensors& x) {
        return operation(Tensors{x[0], x[1], weight.to(x[0].scalar_type())});
      };
    };
    expect_equals_definition(only(with_weight(add_norm)), only(with_weight(formula)), in, 4e-6);
  }
}

// d/dx of |d loss / d x|^2, which needs the second derivative of the norm.
TEST_P(AddRmsNormOn, SecondDerivativesEqualTheFormulas) {
  torch::manual_seed(6);
  const auto penalty = [](const test::Operation& operation, const Tensors& values) {
    Tensors leaves;
    for (const Tensor& value : values) leaves.push_back(value.detach().requires_grad_());
    const Tensors out = operation(leaves);
    const Tensor loss = out[0].pow(3).sum() + out[1].pow(3).sum();
    const Tensors first = torch::autograd::grad({loss}, leaves, {}, true, /*create_graph=*/true);
    Tensor total = first[0].square().sum();
    for (std::size_t i = 1; i < first.size(); ++i) total = total + first[i].square().sum();
    return torch::autograd::grad({total}, leaves);
  };
  const Tensors in = here({torch::randn({4, 10}), torch::randn({4, 10}), torch::randn({10})});
  Tensors wide;
  for (const Tensor& x : in) wide.push_back(x.to(torch::kDouble));
  const Tensors actual = penalty(add_norm, in), expected = penalty(formula, wide);
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_LT(test::relative_error(actual[i], expected[i]), 1e-5);
}

TEST(AddRmsNorm, GradientsAreTheSlopesOfTheFormula) {
  torch::manual_seed(7);
  const Tensors in{torch::randn({2, 5}), torch::randn({2, 5}), torch::randn({5})};
  test::expect_gradients_are_slopes(add_norm, formula, in, 1e-5);
  Tensors wide;
  for (const Tensor& x : in) wide.push_back(x.to(torch::kDouble));
  test::expect_gradients_are_slopes(add_norm, formula, wide, 1e-7);
}

}  // namespace
}  // namespace halftone::rms_norm_test
