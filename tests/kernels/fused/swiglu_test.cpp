// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/fused/swiglu.h"

#include <gtest/gtest.h>

#include <limits>

#include "support/fused_op.h"
#include "support/instruction_sets.h"
#include "support/on_devices.h"

namespace halftone::swiglu_test {
namespace {

using torch::Tensor;
using Tensors = std::vector<Tensor>;

Tensors fused(const Tensors& in) { return {swiglu(in[0])}; }

Tensors formula(const Tensors& in) {
  const Tensors parts = in[0].chunk(2, -1);
  return {parts[0] / (1 + (-parts[0]).exp()) * parts[1]};
}

using SwigluOn = test::OnDevices;
HALFTONE_ON_DEVICES(SwigluOn);

TEST_P(SwigluOn, EqualsTheFormulaOnOddSizesInEveryDtype) {
  torch::manual_seed(1);
  test::for_each_instruction_set([this] {
    for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf})
      for (const std::int64_t width : {1, 5, 16, 35, 128})
        test::expect_equals_definition(fused, formula,
                                       {here((torch::randn({3, 11, 2 * width}) * 3).to(dtype))},
                                       test::tolerance_of(dtype));
  });
}

TEST(Swiglu, GradientsAreTheSlopesOfTheFormula) {
  torch::manual_seed(4);
  test::expect_gradients_are_slopes(fused, formula, {torch::randn({3, 14})}, 1e-5);
}

TEST(Swiglu, RoundsWhereTheDefinitionRounds) {
  torch::manual_seed(2);
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    const Tensors in{torch::randn({50, 64}).to(dtype)};
    const auto reference = [](const Tensors& x) { return Tensors{swiglu_reference(x[0])}; };
    const test::ValuesAndGradients ours = test::differentiate(fused, in);
    const test::ValuesAndGradients theirs = test::differentiate(reference, in);
    // Two exponentials may fall on either side of a rounding, rarely.
    const auto differing = [](const Tensor& a, const Tensor& b) {
      return (a != b).to(torch::kFloat).mean().item<double>();
    };
    EXPECT_LT(differing(ours.values[0], theirs.values[0]), 0.01);
    EXPECT_LT(differing(ours.gradients[0], theirs.gradients[0]), 0.01);
  }
}

TEST_P(SwigluOn, FarGatesAreShutOrOpen) {
  const Tensor gate_up = here(torch::tensor({-1000.0F, 1000.0F, 2.0F, 3.0F}).view({1, 4}));
  EXPECT_TRUE(swiglu(gate_up).equal(here(torch::tensor({{-0.0F, 3000.0F}}))));
  const Tensor slope = test::differentiate(fused, {gate_up}).gradients[0];
  EXPECT_TRUE(slope.isfinite().all().item<bool>());
}

TEST_P(SwigluOn, NonFiniteValuesStayVisible) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  // Gates inf, -inf, nan, 1, 1; ups 1, 1, 1, inf, nan.
  const Tensor gate_up =
      here(torch::tensor({inf, -inf, nan, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, inf, nan}).view({1, 10}));
  const Tensor ours = swiglu(gate_up), definition = swiglu_reference(gate_up);
  EXPECT_TRUE(ours.isfinite().logical_not().all().item<bool>());
  EXPECT_TRUE(at::allclose(ours, definition, 0, 0, /*equal_nan=*/true));
}

TEST_P(SwigluOn, TakesStridedUnalignedAndEmptyOperands) {
  torch::manual_seed(3);
  const Tensor store = here(torch::randn({6, 41}));
  test::expect_equals_definition(fused, formula, {store.narrow(1, 1, 38)}, 2e-6);
  test::expect_equals_definition(fused, formula, {store.t().narrow(1, 0, 4)}, 2e-6);
  EXPECT_EQ(swiglu(here(torch::zeros({0, 8}))).sizes(), (std::vector<std::int64_t>{0, 4}));
  EXPECT_THROW(swiglu(here(torch::zeros({2, 7}))), c10::Error);
}

TEST(Swiglu, DoesNotDependOnTheNumberOfThreads) {
  torch::manual_seed(4);
  EXPECT_TRUE(test::is_thread_independent(fused, {torch::randn({101, 70})}));
}

TEST_P(SwigluOn, SecondDerivativesEqualTheFormulas) {
  torch::manual_seed(5);
  const auto penalty = [](const test::Operation& operation, const Tensor& value) {
    const Tensor x = value.detach().requires_grad_();
    const Tensor slope =
        torch::autograd::grad({operation({x})[0].square().sum()}, {x}, {}, true, true)[0];
    return torch::autograd::grad({slope.square().sum()}, {x})[0];
  };
  const Tensor x = here(torch::randn({4, 10}));
  EXPECT_LT(test::relative_error(penalty(fused, x), penalty(formula, x.to(torch::kDouble))), 1e-5);
}

}  // namespace
}  // namespace halftone::swiglu_test
