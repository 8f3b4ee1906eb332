// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/fused/layer_norm.h"

#include <gtest/gtest.h>

#include <limits>
#include <utility>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/keep_fp32.h"
#include "support/fused_op.h"
#include "support/on_devices.h"

namespace halftone::layer_norm_test {
namespace {

using torch::Tensor;
using Tensors = std::vector<Tensor>;

constexpr double kEps = 1e-5;
constexpr std::int64_t kGroups = 3;

Tensors layer(const Tensors& in) { return {halftone::layer_norm(in[0], in[1], in[2], kEps)}; }
Tensors layer_definition(const Tensors& in) {
  return {layer_norm_reference(in[0], in[1], in[2], kEps)};
}
Tensors group(const Tensors& in) {
  return {halftone::group_norm(in[0], kGroups, in[1], in[2], kEps)};
}
Tensors group_definition(const Tensors& in) {
  return {group_norm_reference(in[0], kGroups, in[1], in[2], kEps)};
}

/// Values, and gradients for a gradient of the result that has the same numbers in fp64: sums of it
/// are the gradient of the bias.
void expect_equals(const test::Operation& operation, const test::Operation& definition,
                   const Tensors& inputs, double tolerance) {
  const auto results_of = [](const test::Operation& norm, const Tensors& in, const Tensor& g) {
    Tensors leaves, wanted;
    for (const Tensor& one : in) {
      leaves.push_back(one.defined() ? one.detach().requires_grad_() : one);
      if (one.defined()) wanted.push_back(leaves.back());
    }
    Tensors results = norm(leaves);
    for (Tensor& one : torch::autograd::grad({results[0]}, wanted, {g.to(results[0].options())}))
      results.push_back(std::move(one));
    return results;
  };
  Tensors wide;
  for (const Tensor& one : inputs) wide.push_back(one.defined() ? one.to(torch::kDouble) : one);
  const Tensor g = torch::randn_like(inputs[0]);
  const Tensors found = results_of(operation, inputs, g);
  const Tensors expected = results_of(definition, wide, g);
  for (std::size_t i = 0; i < expected.size(); ++i)
    EXPECT_LT(test::relative_error(found[i], expected[i]), tolerance) << "result " << i;
}

/// Of the reference, in elementary operations of fp64, against a loop over the numbers.
TEST(LayerNorm, TheDefinitionIsTheFormula) {
  torch::manual_seed(1);
  const Tensor x = torch::randn({2, 6, 2, 2}, torch::kDouble);
  const Tensor weight = torch::randn({6}, torch::kDouble), bias = torch::randn({6}, torch::kDouble);
  const Tensor y = group_norm_reference(x, kGroups, weight, bias, kEps);
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t c = 0; c < 6; ++c) {
      const Tensor mates = x[b].narrow(0, c / 2 * 2, 2);
      const Tensor expected =
          (x[b][c] - mates.mean()) / (mates.var(/*unbiased=*/false) + kEps).sqrt() * weight[c] +
          bias[c];
      EXPECT_LT((y[b][c] - expected).abs().max().item<double>(), 1e-12);
    }
  }
  const Tensor rows = torch::randn({5, 6}, torch::kDouble);
  const Tensor expected =
      (rows - rows.mean(1, true)) / (rows.var(1, /*unbiased=*/false, true) + kEps).sqrt() * weight +
      bias;
  EXPECT_LT((layer_norm_reference(rows, weight, bias, kEps) - expected).abs().max().item<double>(),
            1e-12);
}

using LayerNormOn = test::OnDevices;
HALFTONE_ON_DEVICES(LayerNormOn);

TEST_P(LayerNormOn, EqualTheDefinitionOnOddSizesInEveryDtype) {
  torch::manual_seed(2);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    for (const std::int64_t width : {7, 33, 512}) {
      const Tensor x = torch::randn({3, 67, width}).to(dtype);
      const Tensor weight = torch::randn({width}).to(dtype), bias = torch::randn({width}).to(dtype);
      const double tolerance = 3 * test::tolerance_of(dtype);
      expect_equals(layer, layer_definition, here({x, weight, bias}), tolerance);
      expect_equals(layer, layer_definition, here({x, Tensor(), Tensor()}), tolerance);
    }
    const Tensor pictures = torch::randn({5, 12, 7, 3}).to(dtype);
    const Tensor weight = torch::randn({12}).to(dtype), bias = torch::randn({12}).to(dtype);
    const double tolerance = 3 * test::tolerance_of(dtype);
    expect_equals(group, group_definition, here({pictures, weight, bias}), tolerance);
    expect_equals(group, group_definition, here({pictures, Tensor(), Tensor()}), tolerance);
  }
}

// Squares of 300 overflow fp16, and a mean of 300 leaves bf16 no digits for a variance of 1.
TEST_P(LayerNormOn, StatisticsAreFp32) {
  torch::manual_seed(3);
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    const Tensor x = (torch::randn({6, 12, 40}) * 2 + 300).to(dtype);
    const Tensor ones = torch::ones({40}, dtype), channels = torch::ones({12}, dtype);
    const auto error = [&](const Tensor& y, const Tensor& expected) {
      return test::relative_error(y, expected);
    };
    const Tensor wide = x.to(torch::kDouble);
    EXPECT_LT(error(halftone::layer_norm(here(x), here(ones), {}, kEps),
                    layer_norm_reference(wide, {}, {}, kEps)),
              test::tolerance_of(dtype));
    EXPECT_LT(error(halftone::group_norm(here(x), kGroups, here(channels), {}, kEps),
                    group_norm_reference(wide, kGroups, {}, {}, kEps)),
              test::tolerance_of(dtype));
  }
}

// With 16-bit statistics, these gradients of x are wrong by a percent in fp16, by four in bf16.
TEST_P(LayerNormOn, StatisticsOfGradientsAreFp32) {
  torch::manual_seed(6);
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    SCOPED_TRACE(dtype);
    const double tolerance = test::tolerance_of(dtype) / 2;
    const Tensor x = (torch::randn({6, 12, 40}) * 2 + 300).to(dtype);
    for (const std::int64_t size : {40, 12}) {
      const test::Operation norm = size == 40 ? layer : group;
      const test::Operation definition = size == 40 ? layer_definition : group_definition;
      const Tensor weight = torch::rand({size}).add(0.5).to(dtype);
      const Tensor bias = torch::randn({size}).to(dtype);
      expect_equals(norm, definition, here({x, weight, bias}), tolerance);
      expect_equals(norm, definition, here({x, weight, Tensor()}), tolerance);
      expect_equals(norm, definition, here({x, Tensor(), Tensor()}), tolerance);
    }
  }
}

// A sum in bf16 stays where it is once it is 256 times its next number.
TEST_P(LayerNormOn, GradientsOfWeightsAreSumsInFp32) {
  torch::manual_seed(7);
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    const Tensor x = here(torch::randn({4000, 6}).to(dtype));
    const Tensor g = (torch::randn({4000, 6}) + 0.5).to(dtype);
    const Tensor expected = g.to(torch::kDouble).sum(0);
    for (const test::Operation& norm : {test::Operation(layer), test::Operation(group)}) {
      const Tensor weight = here(torch::ones({6}, dtype)).requires_grad_();
      const Tensor bias = here(torch::zeros({6}, dtype)).requires_grad_();
      const Tensor y = norm({x, weight, bias}).front();
      const Tensor found = torch::autograd::grad({y}, {bias}, {here(g)}).front();
      EXPECT_EQ(found.scalar_type(), dtype);
      EXPECT_LT(test::relative_error(found, expected), test::tolerance_of(dtype) / 2);
    }
  }
}

TEST(LayerNorm, PromoteToFp64) {
  torch::manual_seed(8);
  const Tensor x = torch::randn({5, 12}), weight = torch::randn({12}), bias = torch::randn({12});
  const auto wide = [](const Tensor& one) { return one.to(torch::kDouble); };
  for (const Tensors& in : {Tensors{wide(x), weight, bias}, Tensors{x, wide(weight), bias},
                            Tensors{wide(x), wide(weight), bias}, Tensors{wide(x), {}, bias}}) {
    Tensors all;
    for (const Tensor& one : in) all.push_back(one.defined() ? wide(one) : one);
    using Pair = std::pair<test::Operation, test::Operation>;
    for (const auto& [norm, definition] :
         {Pair(layer, layer_definition), Pair(group, group_definition)}) {
      const Tensor y = norm(in).front();
      EXPECT_EQ(y.scalar_type(), torch::kDouble);
      EXPECT_LT(test::relative_error(y, definition(all).front()), 1e-12);
    }
  }
}

TEST_P(LayerNormOn, AnFp32WeightGivesFp32UnderAutocastToo) {
  torch::manual_seed(4);
  const Tensor weight = here(torch::randn({12})), bias = here(torch::randn({12}));
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    const Tensor x = here(torch::randn({5, 12}).to(dtype));
    const Tensor expected = layer_norm_reference(x.to(torch::kDouble), weight.to(torch::kDouble),
                                                 bias.to(torch::kDouble), kEps);
    for (const bool on : {false, true}) {
      const Autocast autocast(device().type(), torch::kBFloat16, on);
      for (const Tensor& y :
           {halftone::layer_norm(x, weight, bias, kEps),
            halftone::group_norm(x.unsqueeze(2), 1, weight, bias, kEps).squeeze(2)}) {
        EXPECT_EQ(y.scalar_type(), torch::kFloat);
        EXPECT_LT(test::relative_error(y, expected), 2e-6);
      }
      EXPECT_EQ(halftone::layer_norm(x, {}, {}, kEps).scalar_type(), dtype);
    }
  }
}

TEST_P(LayerNormOn, AMarkedWeightMakesAutocastsResultFp32) {
  const Tensor x = here(torch::randn({5, 12}).to(torch::kBFloat16));
  const Tensor weight = here(torch::ones({12}, torch::kBFloat16));
  mark_keep_fp32(weight);
  EXPECT_EQ(halftone::layer_norm(x, weight, {}, kEps).scalar_type(), torch::kBFloat16);
  const Autocast autocast(device().type(), torch::kBFloat16);
  EXPECT_EQ(halftone::layer_norm(x, weight, {}, kEps).scalar_type(), torch::kFloat);
  EXPECT_EQ(halftone::group_norm(x, kGroups, weight, {}, kEps).scalar_type(), torch::kFloat);
  unmark_keep_fp32(weight);
}

TEST_P(LayerNormOn, TakeStridedOperandsAndNoRows) {
  torch::manual_seed(5);
  const Tensor store = here(torch::randn({6, 40}));
  const Tensors in{store.t().narrow(0, 20, 19).t(), here(torch::randn({20})).narrow(0, 1, 19),
                   here(torch::randn({40})).slice(0, 0, 38, 2)};
  expect_equals(layer, layer_definition, in, 6e-6);
  const Tensors none = here({torch::zeros({0, 6}), torch::ones({6}), torch::zeros({6})});
  for (const auto& norm : {layer, group}) {
    const test::ValuesAndGradients out = test::differentiate(norm, none);
    EXPECT_EQ(out.values[0].sizes(), (std::vector<std::int64_t>{0, 6}));
    EXPECT_TRUE(out.gradients[1].equal(here(torch::zeros({6}))));
  }
}

TEST_P(LayerNormOn, NonFiniteRowsStayVisible) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Tensor x = torch::randn({3, 6, 5});
    x[1][4][2] = bad;
    const Tensor rows = halftone::layer_norm(here(x), {}, {}, kEps).cpu();
    EXPECT_FALSE(rows[1][4].isfinite().any().item<bool>());
    EXPECT_TRUE(rows[0].isfinite().all().item<bool>());
    const Tensor groups = halftone::group_norm(here(x), kGroups, {}, {}, kEps).cpu();
    EXPECT_FALSE(groups[1][4].isfinite().any().item<bool>());
    EXPECT_TRUE(groups[1][3].isfinite().all().item<bool>());
    EXPECT_TRUE(groups[2].isfinite().all().item<bool>());
  }
}

TEST(LayerNorm, RefuseWhatDoesNotFit) {
  const Tensor x = torch::zeros({2, 6});
  EXPECT_THROW(halftone::layer_norm(x, torch::ones({5}), {}, kEps), c10::Error);
  EXPECT_THROW(halftone::layer_norm(x, {}, torch::ones({6, 1}), kEps), c10::Error);
  EXPECT_THROW(halftone::group_norm(x, 4, {}, {}, kEps), c10::Error);
  EXPECT_THROW(halftone::group_norm(x, 3, torch::ones({3}), {}, kEps), c10::Error);
}

}  // namespace
}  // namespace halftone::layer_norm_test
