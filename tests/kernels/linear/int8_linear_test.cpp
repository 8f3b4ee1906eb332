// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>

#include "halftone/kernels/gemm/int8_gemm.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/linear.h"
#include "support/compute_contexts.h"

namespace halftone::int8_linear_test {
namespace {

using torch::Tensor;

struct Results {
  std::vector<Tensor> outputs;
  std::vector<Tensor> grads;  // of x, then of the weights
};

Results run(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<Tensor>& g) {
  const Tensor input = x.detach().requires_grad_();
  std::vector<Tensor> leaves{input};
  std::vector<Tensor> parameters;
  for (const Tensor& weight : weights) parameters.push_back(weight.detach().requires_grad_());
  leaves.insert(leaves.end(), parameters.begin(), parameters.end());
  std::vector<std::int64_t> counts;
  for (const Tensor& weight : weights) counts.push_back(weight.size(0));
  const Tensor merged = merged_linear(input, parameters);
  Results results{.outputs = merged.split_with_sizes(counts, -1), .grads = {}};
  results.grads = torch::autograd::grad({merged}, leaves, {at::cat(g, -1)});
  return results;
}

bool same(const Results& a, const Results& b) {
  bool equal = true;
  for (std::size_t i = 0; i < a.outputs.size(); ++i)
    equal = equal && torch::equal(a.outputs[i], b.outputs[i]);
  for (std::size_t i = 0; i < a.grads.size(); ++i)
    equal = equal && torch::equal(a.grads[i], b.grads[i]);
  return equal;
}

Tensor wide(const Tensor& x) { return x.to(torch::kDouble); }

/// The largest error of one value of each row of `m` (rows, depth), as a step of its integers.
Tensor steps(const Tensor& m, double largest, double share) {
  return (m.abs().amax(1, /*keepdim=*/true) / largest * share).expand_as(m);
}

/// a b^T (rows sum along the last dimension) may differ by the rounding of either operand.
void expect_within_rounding(const Tensor& actual, const Tensor& a, const Tensor& b,
                            double a_share) {
  const Tensor left = wide(a), right = wide(b);
  const Tensor left_error = steps(left, int8_left_limit(), a_share);
  const Tensor right_error = steps(right, 127, 0.5);
  const Tensor bound = left_error.mm(right.abs().t()) + left.abs().mm(right_error.t()) +
                       left_error.mm(right_error.t());
  const Tensor error = (wide(actual) - left.mm(right.t())).abs();
  EXPECT_TRUE((error <= bound * (1 + 1e-5) + 1e-12).all().item<bool>());
  // Roundings are independent: what is typical is far below what is possible.
  EXPECT_LT(error.mean().item<double>(), 0.35 * bound.mean().item<double>());
}

struct Case {
  Tensor x = torch::randn({3, 50, 40});
  std::vector<Tensor> weights{torch::randn({24, 40}), torch::randn({7, 40})};
  std::vector<Tensor> g{torch::randn({3, 50, 24}), torch::randn({3, 50, 7})};
};

TEST(Int8Linear, StaysWithinTheRoundingOfItsOperandsForwardAndBackward) {
  torch::manual_seed(1);
  const Case c;
  const ComputeScope region(test::computing_in(ComputeType::kInt8, 1));
  const Tensor rows = c.x.flatten(0, 1);
  for (std::size_t i = 0; i < 2; ++i) {
    const Results one = run(c.x, {c.weights[i]}, {c.g[i]});
    const Tensor g = c.g[i].flatten(0, 1);
    expect_within_rounding(one.outputs[0].flatten(0, 1), rows, c.weights[i], 0.5);
    expect_within_rounding(one.grads[0].flatten(0, 1), g, c.weights[i].t(), 1.0);
    expect_within_rounding(one.grads[1], g.t(), rows.t(), 1.0);
  }
}

TEST(Int8Linear, SumsTheGradientOfASharedInput) {
  torch::manual_seed(2);
  const Case c;
  const ComputeScope region(test::computing_in(ComputeType::kInt8, 1));
  const Results both = run(c.x, c.weights, c.g);
  const Tensor exact =
      wide(c.g[0]).matmul(wide(c.weights[0])) + wide(c.g[1]).matmul(wide(c.weights[1]));
  EXPECT_LT((wide(both.grads[0]) - exact).norm().item<double>(),
            0.02 * exact.norm().item<double>());
}

TEST(Int8Linear, GradientsAreRightInTheMean) {
  torch::manual_seed(3);
  const Tensor x = torch::randn({16, 12}), weight = torch::randn({5, 12}),
               g = torch::randn({16, 5});
  constexpr int kDraws = 400;
  Tensor dx = torch::zeros({16, 12}, torch::kDouble), dw = torch::zeros({5, 12}, torch::kDouble);
  Results one;
  for (std::uint64_t step = 0; step < kDraws; ++step) {
    const ComputeScope region(test::computing_in(ComputeType::kInt8, 5, step));
    one = run(x, {weight}, {g});
    dx += wide(one.grads[0]) / kDraws;
    dw += wide(one.grads[1]) / kDraws;
  }
  // What remains is the rounding of x and W to the nearest, the same in every draw.
  const auto rounded = [](const Tensor& m) {
    const Tensor scale = m.abs().amax(1, /*keepdim=*/true) / 127;
    return (m / scale).round() * scale;
  };
  const Tensor dx_mean = wide(g).mm(rounded(wide(weight).t()).t());
  const Tensor dw_mean = wide(g).t().mm(rounded(wide(x).t()).t());
  const double dx_draw = (wide(one.grads[0]) - dx_mean).abs().max().item<double>();
  const double dw_draw = (wide(one.grads[1]) - dw_mean).abs().max().item<double>();
  EXPECT_LT((dx - dx_mean).abs().max().item<double>(), dx_draw / 5);
  EXPECT_LT((dw - dw_mean).abs().max().item<double>(), dw_draw / 5);
}

TEST(Int8Linear, IsAFunctionOfSeedPassAndLayer) {
  torch::manual_seed(4);
  const Case c;
  const auto in_region = [&](std::uint64_t seed, std::uint64_t pass) {
    const ComputeScope region(test::computing_in(ComputeType::kInt8, seed, pass));
    return run(c.x, c.weights, c.g);
  };
  const Results first = in_region(3, 8);
  EXPECT_TRUE(same(first, in_region(3, 8)));
  EXPECT_FALSE(same(first, in_region(3, 9)));
  EXPECT_FALSE(same(first, in_region(4, 8)));
  const ComputeScope region(test::computing_in(ComputeType::kInt8, 3, 8));
  EXPECT_TRUE(same(first, run(c.x, c.weights, c.g)));
  EXPECT_FALSE(same(first, run(c.x, c.weights, c.g)));  // the region's second layer
}

TEST(Int8Linear, NonFiniteGradientsReachTheWeights) {
  const Tensor x = torch::ones({4, 8}), weight = torch::ones({3, 8});
  Tensor g = torch::ones({4, 3});
  g[1][2] = std::numeric_limits<float>::infinity();
  const ComputeScope region(test::computing_in(ComputeType::kInt8));
  const Results one = run(x, {weight}, {g});
  EXPECT_FALSE(one.grads[1][2].isfinite().any().item<bool>());
  EXPECT_TRUE(one.grads[1].narrow(0, 0, 2).isfinite().all().item<bool>());
  EXPECT_FALSE(one.grads[0][1].isfinite().any().item<bool>());
}

TEST(Int8Linear, TakesNoTokens) {
  const ComputeScope region(test::computing_in(ComputeType::kInt8));
  const Results none = run(torch::ones({2, 0, 8}), {torch::ones({3, 8})}, {torch::ones({2, 0, 3})});
  EXPECT_EQ(none.outputs[0].sizes(), (std::vector<std::int64_t>{2, 0, 3}));
  EXPECT_TRUE(torch::equal(none.grads[1], torch::zeros({3, 8})));
}

TEST(Int8Linear, SumsMoreTokensThanOneIntegerHolds) {
  torch::manual_seed(5);
  const Tensor x = torch::randn({kMaxInt8Depth + 100, 2});
  const Tensor g = torch::randn({kMaxInt8Depth + 100, 3});
  const ComputeScope region(test::computing_in(ComputeType::kInt8));
  const Results many = run(x, {torch::randn({3, 2})}, {g});
  expect_within_rounding(many.grads[1], g.t(), x.t(), 1.0);
}

TEST(Int8Linear, RefusesASecondDerivative) {
  const ComputeScope region(test::computing_in(ComputeType::kInt8));
  const Tensor x = torch::ones({2, 4}, torch::requires_grad());
  const Tensor y = halftone::linear(x, torch::ones({3, 4}, torch::requires_grad()));
  EXPECT_ANY_THROW(torch::autograd::grad({y.sum()}, {x}, {}, std::nullopt, /*create_graph=*/true));
}

TEST(Int8Linear, BackwardFollowsTheForwardsRegion) {
  torch::manual_seed(6);
  const Case c;
  const auto forward = [&](const Tensor& x) { return halftone::linear(x, c.weights[0]); };
  const Tensor x = c.x.detach().requires_grad_();
  Tensor y;
  {
    const ComputeScope region(test::computing_in(ComputeType::kInt8));
    y = forward(x);
  }
  const Tensor outside = torch::autograd::grad({y}, {x}, {c.g[0]}, true).front();
  const ComputeScope region(test::computing_in(ComputeType::kInt8, 77, 0));
  const Tensor inside = torch::autograd::grad({y}, {x}, {c.g[0]}, true).front();
  EXPECT_TRUE(torch::equal(outside, inside));
  EXPECT_FALSE(torch::equal(outside, c.g[0].matmul(c.weights[0])));
}

TEST(Int8Linear, LeavesDoubleAlone) {
  const ComputeScope region(test::computing_in(ComputeType::kInt8));
  const Tensor x = torch::randn({2, 4}, torch::kDouble),
               weight = torch::randn({3, 4}, torch::kDouble);
  EXPECT_TRUE(torch::equal(halftone::linear(x, weight), at::linear(x, weight)));
}

}  // namespace
}  // namespace halftone::int8_linear_test
