// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/flow_matching.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/kernels/linear/compute_context.h"
#include "support/fused_op.h"

namespace halftone::flow_matching_test {
namespace {

using torch::Tensor;

TEST(FlowMatching, GoesStraightFromNoiseToData) {
  torch::manual_seed(1);
  const Tensor x = torch::randn({3, 2, 5}), noise = torch::randn({3, 2, 5});
  const Tensor z = flow_points(x, noise, torch::tensor({0.0, 0.25, 1.0}));
  EXPECT_TRUE(z[0].equal(noise[0]));
  EXPECT_TRUE(z[2].equal(x[2]));
  EXPECT_TRUE(z[1].allclose(0.25 * x[1] + 0.75 * noise[1], 1e-6, 1e-6));
}

TEST(FlowMatching, LosesBySquaredErrorOfTheDirection) {
  torch::manual_seed(2);
  const auto fp64 = torch::kDouble;
  const Tensor x = torch::randn({4, 3}, fp64), noise = torch::randn({4, 3}, fp64);
  const Tensor predicted = torch::randn({4, 3}, fp64).requires_grad_();
  const Tensor t = torch::tensor({0.0, 0.3, 0.8, 0.9}, fp64), at = t.unsqueeze(1);
  // The line has one direction, and the model says another one.
  const Tensor z = at * x + (1 - at) * noise;
  const Tensor expected = ((predicted - z) / (1 - at) - (x - noise)).square().mean();
  const Tensor loss = flow_matching_loss(predicted, x, t);
  EXPECT_EQ(loss.scalar_type(), torch::kFloat);
  EXPECT_NEAR(loss.item<double>(), expected.item<double>(), 1e-5 * expected.item<double>());
  EXPECT_LT(test::relative_error(torch::autograd::grad({loss}, {predicted})[0],
                                 torch::autograd::grad({expected}, {predicted})[0]),
            1e-5);
}

TEST(FlowMatching, BoundsTheWeightOfWhatIsNearTheData) {
  const Tensor x = torch::zeros({1, 2}), predicted = torch::ones({1, 2});
  const Tensor t = torch::ones({1});
  EXPECT_NEAR(flow_matching_loss(predicted, x, t).item<double>(), 400.0, 1e-2);
  EXPECT_NEAR(flow_matching_loss(predicted, x, t, 0.5).item<double>(), 4.0, 1e-5);
}

TEST(FlowMatching, ComputesInFp32InABf16Region) {
  torch::manual_seed(3);
  const Tensor x = torch::randn({2, 8}), noise = torch::randn({2, 8}), p = torch::randn({2, 8});
  const Tensor t = torch::tensor({0.999, 0.5});
  const Tensor z = flow_points(x, noise, t), loss = flow_matching_loss(p, x, t);
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  EXPECT_TRUE(flow_points(x, noise, t).equal(z));
  EXPECT_TRUE(flow_matching_loss(p, x, t).equal(loss));
  EXPECT_EQ(flow_points(x.to(torch::kBFloat16), noise, t).scalar_type(), torch::kFloat);
}

TEST(FollowFlow, EndsWhereTheModelSays) {
  torch::manual_seed(4);
  const Tensor x = torch::randn({2, 3});
  std::vector<double> times;
  std::set<const WeightCache*> caches;
  const Tensor end = follow_flow(torch::randn({2, 3}), 4, [&](const Tensor& z, double t) {
    EXPECT_EQ(z.sizes(), x.sizes());
    caches.insert(compute_context().weight_cache.get());
    times.push_back(t);
    return x;
  });
  EXPECT_TRUE(end.equal(x));
  EXPECT_EQ(caches.size(), 1U);  // one for all steps
  EXPECT_EQ(caches.count(nullptr), 0U);
  EXPECT_EQ(times, (std::vector<double>{0.0, 1.0 / 16, 4.0 / 16, 9.0 / 16}));
  EXPECT_TRUE(compute_context().weight_cache == nullptr);
}

// Of data with a normal distribution the best guess is known, and where the flow ends: noise e
// comes to the data of the same quantile, deviation * e.
TEST(FollowFlow, MapsNormalNoiseToNormalData) {
  constexpr double kDeviation = 3.0;
  const Tensor noise = torch::linspace(-2, 2, 9);
  const auto error = [&](std::int64_t steps) {
    const Tensor end = follow_flow(noise, steps, [](const Tensor& z, double t) {
      const double data = t * t * kDeviation * kDeviation;
      return z * (t * kDeviation * kDeviation / (data + (1 - t) * (1 - t)));
    });
    return test::relative_error(end, kDeviation * noise);
  };
  const double coarse = error(100), fine = error(200);
  EXPECT_LT(coarse, 0.05);
  EXPECT_NEAR(coarse / fine, 2.0, 0.2);  // Euler's method is of first order
}

TEST(FlowMatching, RefusesOtherShapes) {
  const Tensor x = torch::zeros({2, 3});
  EXPECT_THROW(flow_points(x, torch::zeros({2, 4}), torch::zeros({2})), c10::Error);
  EXPECT_THROW(flow_points(x, x, torch::zeros({3})), c10::Error);
  EXPECT_THROW(flow_matching_loss(torch::zeros({3, 3}), x, torch::zeros({2})), c10::Error);
  EXPECT_THROW(follow_flow(x, 0, [](const Tensor& z, double) { return z; }), c10::Error);
}

}  // namespace
}  // namespace halftone::flow_matching_test
