// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/clip.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace halftone::clip_test {
namespace {

torch::Tensor with_gradient(const torch::Tensor& gradient) {
  torch::Tensor parameter = torch::zeros(gradient.sizes(), gradient.scalar_type());
  parameter.mutable_grad() = gradient;
  return parameter;
}

TEST(ClipGradNorm, ScalesToTheNormAndReturnsTheOldOne) {
  const torch::Tensor a = with_gradient(torch::tensor({3.0F}));
  const torch::Tensor b = with_gradient(torch::tensor({0.0F, 4.0F}));
  EXPECT_FLOAT_EQ(clip_grad_norm_({a, b, torch::zeros({2})}, 1.0).item<float>(), 5.0F);
  EXPECT_NEAR(a.grad()[0].item<float>(), 0.6F, 1e-6);
  EXPECT_NEAR(b.grad()[1].item<float>(), 0.8F, 1e-6);
}

TEST(ClipGradNorm, LeavesSmallGradientsAlone) {
  const torch::Tensor a = with_gradient(torch::tensor({0.3F, -0.4F}));
  const torch::Tensor before = a.grad().clone();
  EXPECT_FLOAT_EQ(clip_grad_norm_({a}, 1.0).item<float>(), 0.5F);
  EXPECT_TRUE(torch::equal(a.grad(), before));
}

TEST(ClipGradNorm, SumsHalfPrecisionInFp64) {
  // 300 squared is beyond fp16, and so is the sum of a million small squares.
  const torch::Tensor a = with_gradient(torch::full({1000}, 300.0).to(torch::kHalf));
  const torch::Tensor norm = clip_grad_norm_({a}, 1e9);
  EXPECT_EQ(norm.scalar_type(), torch::kDouble);
  EXPECT_DOUBLE_EQ(norm.item<double>(), 300.0 * std::sqrt(1000.0));
}

// Each is finite; the squares of the fp32 and bf16 ones are not in fp32, nor is the factor in fp16.
TEST(ClipGradNorm, ClipsEveryFiniteGradient) {
  for (const auto& [dtype, value] : {std::pair(torch::kFloat, 1e25),
                                     {torch::kFloat, 3e38},
                                     {torch::kBFloat16, 1e30},
                                     {torch::kHalf, 65504.0},
                                     {torch::kDouble, 1e90}}) {
    for (const double norm_type : {1.0, 2.0, 3.0, std::numeric_limits<double>::infinity()}) {
      const torch::Tensor a =
          with_gradient(torch::full({1000, 50}, value, torch::kDouble).to(dtype));
      const double each = a.grad()[0][0].item<double>();
      const double share = std::pow(50000.0, 1.0 / norm_type);
      const double norm = clip_grad_norm_({a}, 2.0, {.norm_type = norm_type}).item<double>();
      EXPECT_NEAR(norm / (each * share), 1.0, 1e-9) << dtype << " " << norm_type;
      const torch::Tensor left = a.grad().to(torch::kDouble) * (share / 2.0);
      EXPECT_TRUE(at::allclose(left, torch::ones_like(left), 5e-3)) << dtype << " " << norm_type;
    }
  }
}

TEST(ClipGradNorm, WithoutALimitItOnlyMeasures) {
  const torch::Tensor a = with_gradient(torch::tensor({1e20F, -0.0F, 1e-40F}));
  const torch::Tensor before = a.grad().clone();
  const double no_limit = std::numeric_limits<double>::infinity();
  EXPECT_NEAR(clip_grad_norm_({a}, no_limit).item<double>(), 1e20, 1e13);
  EXPECT_TRUE(torch::equal(a.grad().view(torch::kInt), before.view(torch::kInt)));
  EXPECT_EQ(clip_factor(torch::full({}, no_limit), no_limit).item<double>(), 1.0);
}

TEST(ClipGradNorm, KnowsOtherNorms) {
  const torch::Tensor a = with_gradient(torch::tensor({-3.0F, 1.0F}));
  EXPECT_FLOAT_EQ(clip_grad_norm_({a}, 9.0, {.norm_type = 1.0}).item<float>(), 4.0F);
  EXPECT_FLOAT_EQ(clip_grad_norm_({a}, 9.0, {.norm_type = std::numeric_limits<double>::infinity()})
                      .item<float>(),
                  3.0F);
}

TEST(ClipGradNorm, NonFiniteNormsAreReturnedOrRefused) {
  const torch::Tensor a = with_gradient(torch::tensor({NAN, 1.0F}));
  EXPECT_THROW(clip_grad_norm_({a}, 1.0, {.error_if_nonfinite = true}), c10::Error);
  EXPECT_FLOAT_EQ(a.grad()[1].item<float>(), 1.0F);
  const torch::Tensor b = with_gradient(torch::tensor({3.0F}));
  EXPECT_TRUE(std::isnan(clip_grad_norm_({a, b}, 1.0).item<float>()));
  // Which of them is to blame can still be seen.
  EXPECT_FLOAT_EQ(a.grad()[1].item<float>(), 1.0F);
  EXPECT_FLOAT_EQ(b.grad().item<float>(), 3.0F);
}

TEST(ClipGradNorm, TakesEmptyAndSparseGradients) {
  EXPECT_EQ(clip_grad_norm_({}, 1.0).item<float>(), 0.0F);
  EXPECT_EQ(clip_grad_norm_({with_gradient(torch::zeros({0}))}, 1.0).item<float>(), 0.0F);
  const torch::Tensor indices = torch::tensor({1, 1}, torch::kLong).reshape({1, 2});
  const torch::Tensor sparse = torch::sparse_coo_tensor(indices, torch::tensor({3.0F, 5.0F}), {4});
  const torch::Tensor a = with_gradient(torch::zeros({4}));
  a.mutable_grad() = sparse;
  EXPECT_FLOAT_EQ(clip_grad_norm_({a}, 2.0).item<float>(), 8.0F);
  EXPECT_NEAR(a.grad().to_dense()[1].item<float>(), 2.0F, 1e-5);
}

}  // namespace
}  // namespace halftone::clip_test
