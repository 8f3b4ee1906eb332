// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace halftone::loss_test {
namespace {

using torch::Tensor;

TEST(MaskedCrossEntropy, EqualsTheFormula) {
  torch::manual_seed(1);
  for (const auto dtype : {torch::kDouble, torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    const Tensor logits = torch::randn({13, 7}).to(dtype);
    const Tensor targets = torch::randint(7, {13});
    const Tensor mask = (torch::arange(13) % 3 != 0).to(torch::kLong);
    const Tensor wide = logits.to(torch::kDouble);
    const Tensor each = wide.logsumexp(1) - wide.gather(1, targets.unsqueeze(1)).squeeze(1);
    const Tensor expected = (each * mask).sum() / mask.sum();
    const Tensor loss = masked_cross_entropy(logits, targets, mask);
    EXPECT_EQ(loss.scalar_type(), dtype == torch::kDouble ? torch::kDouble : torch::kFloat);
    EXPECT_NEAR(loss.item<double>(), expected.item<double>(), 1e-5);
  }
}

TEST(MaskedCrossEntropy, GradientIsSoftmaxMinusOneHotOverTheCount) {
  torch::manual_seed(2);
  for (const auto dtype : {torch::kDouble, torch::kFloat, torch::kBFloat16}) {
    Tensor logits = torch::randn({9, 5}).to(dtype).requires_grad_();
    const Tensor targets = torch::randint(5, {9});
    const Tensor mask = torch::tensor({1., 0., 1., 0.5, 0., 1., 1., 2., 0.});
    (masked_cross_entropy(logits, targets, mask) * 3).backward();
    const Tensor softmax = logits.detach().to(torch::kDouble).softmax(1);
    const Tensor expected = (softmax - at::one_hot(targets, 5)) *
                            mask.to(torch::kDouble).unsqueeze(1) * (3 / mask.sum().item<double>());
    const Tensor error = (logits.grad().to(torch::kDouble) - expected).abs();
    EXPECT_LT(error.max().item<double>(), dtype == torch::kBFloat16 ? 4e-3 : 1e-6);
  }
}

TEST(MaskedCrossEntropy, FullyMaskedBatchIsZeroWithZeroGradients) {
  Tensor logits = torch::randn({4, 5}).requires_grad_();
  const Tensor loss = masked_cross_entropy(logits, torch::zeros({4}, torch::kLong),
                                           torch::zeros({4}, torch::kLong));
  EXPECT_EQ(loss.item<float>(), 0.0F);
  loss.backward();
  EXPECT_TRUE(logits.grad().equal(torch::zeros({4, 5})));
}

TEST(MaskedCrossEntropy, MaskedTargetsMayBeAnything) {
  const Tensor logits = torch::randn({3, 5});
  const Tensor mask = torch::tensor({1, 0, 0});
  const Tensor good = masked_cross_entropy(logits, torch::tensor({2, 0, 0}), mask);
  EXPECT_TRUE(masked_cross_entropy(logits, torch::tensor({2, -1, 99}), mask).equal(good));
}

TEST(MaskedCrossEntropy, InfinitiesThatCountAreReported) {
  Tensor logits = torch::zeros({2, 3});
  logits[0][0] = std::numeric_limits<float>::infinity();
  const Tensor loss =
      masked_cross_entropy(logits, torch::tensor({1, 1}), torch::ones({2}, torch::kLong));
  EXPECT_FALSE(std::isfinite(loss.item<float>()));
}

TEST(MaskedCrossEntropy, RefusesACountedTargetOutside) {
  const Tensor logits = torch::zeros({2, 3});
  const Tensor ones = torch::ones({2});
  for (const std::int64_t target : {-100, -1, 3})
    EXPECT_THROW(masked_cross_entropy(logits, torch::tensor({std::int64_t{0}, target}), ones),
                 c10::Error);
}

TEST(MaskedLinearCrossEntropy, IsTheLossOfTheLogits) {
  torch::manual_seed(3);
  const Tensor hidden = torch::randn({2, 5, 4});
  const Tensor weight = torch::randn({7, 4});
  const Tensor targets = torch::randint(7, {2, 5});
  const Tensor mask = torch::rand({2, 5}) > 0.4;
  const auto run = [&](const auto& loss_of) {
    const Tensor h = hidden.clone().requires_grad_();
    const Tensor w = weight.clone().requires_grad_();
    const Tensor loss = loss_of(h, w);
    loss.backward();
    return std::vector<Tensor>{loss.detach(), h.grad(), w.grad()};
  };
  const std::vector<Tensor> made = run([&](const Tensor& h, const Tensor& w) {
    return masked_linear_cross_entropy(h, w, targets, mask);
  });
  const std::vector<Tensor> expected = run([&](const Tensor& h, const Tensor& w) {
    return masked_cross_entropy(at::linear(h, w).flatten(0, 1), targets.flatten(), mask.flatten());
  });
  for (std::size_t i = 0; i < made.size(); ++i)
    EXPECT_TRUE(made[i].allclose(expected[i], 1e-5, 1e-6)) << i;
}

TEST(MaskedCrossEntropy, RefusesWrongShapes) {
  const Tensor logits = torch::zeros({2, 3});
  const Tensor two = torch::zeros({2}, torch::kLong);
  const Tensor three = torch::zeros({3}, torch::kLong);
  EXPECT_THROW(masked_cross_entropy(logits, three, three), c10::Error);
  EXPECT_THROW(masked_cross_entropy(logits, two, three), c10::Error);
  EXPECT_THROW(masked_cross_entropy(two, two, two), c10::Error);
}

}  // namespace
}  // namespace halftone::loss_test
