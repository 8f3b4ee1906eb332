// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/fused/cross_entropy.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/utils.h>

#include <cmath>
#include <limits>

#include "support/instruction_sets.h"
#include "support/on_devices.h"

namespace halftone::cross_entropy_test {
namespace {

using torch::Tensor;

constexpr float kInf = std::numeric_limits<float>::infinity();
// fp32 exponentials (relative error below 2^-22) of fp32 differences.
constexpr double kLossError = 2e-6;
constexpr double kGradientError = 5e-7;

struct Case {
  Tensor logits;   // (N, V)
  Tensor targets;  // (N)
  Tensor weights;  // (N), some of them 0, with a target outside
};

Case on(const torch::Device& device, const Case& c) {
  return {c.logits.to(device), c.targets.to(device), c.weights.to(device)};
}

Case random_case(std::int64_t rows, std::int64_t classes, torch::ScalarType dtype) {
  Case made{(torch::randn({rows, classes}) * 4).to(dtype),
            torch::randint(classes, {rows}, torch::kLong), torch::rand({rows}) * 2 - 0.3};
  for (std::int64_t r = 0; r < rows; r += 3) {
    made.weights[r] = 0.0F;
    made.targets[r] = r % 2 == 0 ? -1 : classes;
  }
  return made;
}

/// Losses and gradient by the formula in fp64.
std::pair<Tensor, Tensor> expected(const Case& c) {
  const Tensor wide = c.logits.to(torch::kDouble);
  const Tensor counts = c.weights != 0;
  const Tensor target = torch::where(counts, c.targets, 0).unsqueeze(1);
  const Tensor losses = (wide.logsumexp(1) - wide.gather(1, target).squeeze(1)) * counts;
  const Tensor onehot = torch::zeros_like(wide).scatter(1, target, 1.0);
  return {losses, (wide.softmax(1) - onehot) * c.weights.to(torch::kDouble).unsqueeze(1)};
}

double rounding_of(torch::ScalarType dtype) {
  return dtype == torch::kFloat ? 0.0 : dtype == torch::kHalf ? 0x1p-11 : 0x1p-8;
}

void expect_formula(const Case& c) {
  const auto [losses, gradient] = expected(c);
  const torch::ScalarType dtype = c.logits.scalar_type();
  const double slack = c.logits.is_cpu() ? 1.0 : 2.0;  // LibTorch adds the exponentials up in fp32
  EXPECT_TRUE(row_cross_entropy(c.logits, c.targets, c.weights)
                  .to(torch::kDouble)
                  .allclose(losses, 0.0, slack * kLossError));
  Tensor made = c.logits.clone();
  const Tensor same = row_cross_entropy_to_gradient(made, c.targets, c.weights);
  EXPECT_TRUE(same.equal(row_cross_entropy(c.logits, c.targets, c.weights)));
  const double half_last_place = dtype == torch::kHalf ? 0x1p-25 : 0.0;
  const Tensor allowed =
      gradient.abs() * (rounding_of(dtype) + 1e-6) + slack * kGradientError + half_last_place;
  EXPECT_TRUE(((made.to(torch::kDouble) - gradient).abs() <= allowed).all().item<bool>())
      << c.logits.sizes() << " " << dtype;
}

using CrossEntropyOn = test::OnDevices;
HALFTONE_ON_DEVICES(CrossEntropyOn);

TEST_P(CrossEntropyOn, EqualsTheFormulaForEverySizeAndDtype) {
  torch::manual_seed(1);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf, torch::kDouble})
    for (const std::int64_t classes : {1, 7, 8, 15, 16, 17, 33, 1024, 1031, 6401})
      for (const std::int64_t rows : {0, 1, 5})
        expect_formula(on(device(), random_case(rows, classes, dtype)));
}

TEST(CrossEntropy, EqualsTheFormulaOfManyClasses) {
  torch::manual_seed(7);
  expect_formula(random_case(3, 150000, torch::kFloat));
}

TEST(CrossEntropy, EqualsTheCompositionOnEveryInstructionSet) {
  torch::manual_seed(2);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    const Case c = random_case(7, 333, dtype);
    int tried = 0;
    test::for_each_instruction_set([&] {
      expect_formula(c);
      ++tried;
    });
    EXPECT_GE(tried, 1);
  }
}

TEST(CrossEntropy, RowsNeedNotBeAligned) {
  torch::manual_seed(3);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    const Case whole = random_case(6, 101, dtype);
    const Tensor memory = torch::zeros({1 + 6 * 101}, dtype);
    Case c = whole;
    c.logits = memory.narrow(0, 1, 6 * 101).view({6, 101});
    c.logits.copy_(whole.logits);
    expect_formula(c);
    c.logits = whole.logits.t().contiguous().t();  // down the columns
    EXPECT_TRUE(row_cross_entropy(c.logits, c.targets, c.weights)
                    .equal(row_cross_entropy(whole.logits, c.targets, c.weights)));
    EXPECT_THROW(row_cross_entropy_to_gradient(c.logits, c.targets, c.weights), c10::Error);
  }
}

// One row each: nan, inf, -inf beside numbers, -inf as the target's, -inf alone, huge numbers.
TEST_P(CrossEntropyOn, GivesWhatTheCompositionGivesOfInfAndNan) {
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    for (const std::int64_t classes : {5, 16, 37}) {
      for (const float weight : {1.0F, 0.0F, -2.0F}) {
        Tensor logits = torch::zeros({7, classes}, dtype);
        logits[0][1] = NAN;
        logits[1][classes - 1] = kInf;
        logits[2][0] = -kInf;
        logits[3][2] = -kInf;
        logits[4].fill_(-kInf);
        logits[5].fill_(-6e4);
        logits[5][3] = 6e4;
        logits[6][0] = NAN;
        logits[6][2] = kInf;
        logits = here(logits);
        const Tensor targets = here(torch::full({7}, 2, torch::kLong));
        const Tensor weights = here(torch::full({7}, weight));
        const Tensor leaf = logits.clone().requires_grad_();
        const Tensor losses = row_cross_entropy_reference(leaf, targets, weights);
        const Tensor gradient = torch::autograd::grad({losses}, {leaf}, {weights})[0];
        EXPECT_TRUE(row_cross_entropy(logits, targets, weights)
                        .allclose(losses.detach(), 1e-6, 1e-6, /*equal_nan=*/true));
        Tensor made = logits.clone();
        row_cross_entropy_to_gradient(made, targets, weights);
        EXPECT_TRUE(made.allclose(gradient, 1e-2, 1e-6, /*equal_nan=*/true)) << made << "\n"
                                                                             << gradient;
      }
    }
  }
}

TEST(CrossEntropy, HasTheSameBitsForAnyNumberOfThreads) {
  torch::manual_seed(4);
  const Case c = random_case(67, 1501, torch::kBFloat16);
  const int before = torch::get_num_threads();
  const auto run = [&](int threads) {
    torch::set_num_threads(threads);
    Tensor made = c.logits.clone();
    const Tensor losses = row_cross_entropy_to_gradient(made, c.targets, c.weights);
    return std::pair(losses, made);
  };
  const auto [losses, gradient] = run(1);
  for (const int threads : {2, 3}) {
    const auto [again, made] = run(threads);
    EXPECT_TRUE(again.equal(losses));
    EXPECT_TRUE(made.equal(gradient));
  }
  torch::set_num_threads(before);
}

TEST(CrossEntropy, GradientIsTheSlopeOfTheLoss) {
  torch::manual_seed(5);
  const Case c = random_case(4, 6, torch::kDouble);
  Tensor gradient = c.logits.to(torch::kFloat);
  row_cross_entropy_to_gradient(gradient, c.targets, c.weights);
  constexpr double kStep = 1e-5;
  for (std::int64_t r = 0; r < 4; ++r) {
    for (std::int64_t v = 0; v < 6; ++v) {
      const auto loss_at = [&](double step) {
        const Tensor moved = c.logits.clone();
        moved[r][v] += step;
        return (row_cross_entropy(moved, c.targets, c.weights) * c.weights).sum().item<double>();
      };
      const double slope = (loss_at(kStep) - loss_at(-kStep)) / (2 * kStep);
      EXPECT_NEAR(gradient[r][v].item<double>(), slope, 1e-6);
    }
  }
}

TEST(CrossEntropy, RefusesTargetsOutsideAndOtherShapes) {
  Tensor logits = torch::zeros({2, 3});
  const Tensor weights = torch::ones({2});
  for (const std::int64_t target : {-100, -1, 3}) {
    const Tensor targets = torch::tensor({std::int64_t{0}, target});
    EXPECT_THROW(row_cross_entropy(logits, targets, weights), c10::Error);
    EXPECT_THROW(row_cross_entropy_to_gradient(logits, targets, weights), c10::Error);
    EXPECT_THROW(row_cross_entropy_reference(logits, targets, weights), c10::Error);
  }
  const Tensor two = torch::zeros({2}, torch::kLong);
  EXPECT_THROW(row_cross_entropy(logits, two, torch::ones({3})), c10::Error);
  EXPECT_THROW(row_cross_entropy(logits, two.to(torch::kInt), weights), c10::Error);
  EXPECT_THROW(row_cross_entropy(torch::zeros({2, 0}), two, weights), c10::Error);
}

TEST(WeightedMean, IsZeroWithoutWeight) {
  EXPECT_EQ(weighted_mean(torch::ones({3}), torch::zeros({3})).item<float>(), 0.0F);
  EXPECT_EQ(weighted_mean(torch::tensor({1.0F, 4.0F}), torch::tensor({1.0F, 2.0F})).item<float>(),
            3.0F);
}

}  // namespace
}  // namespace halftone::cross_entropy_test
