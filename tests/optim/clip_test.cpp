// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/clip.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace halftone {
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

TEST(ClipGradNorm, SumsHalfPrecisionInFp32) {
  // 300 squared is beyond fp16, and so is the sum of a million small squares.
  const torch::Tensor a = with_gradient(torch::full({1000}, 300.0).to(torch::kHalf));
  const torch::Tensor norm = clip_grad_norm_({a}, 1e9);
  EXPECT_EQ(norm.scalar_type(), torch::kFloat);
  EXPECT_NEAR(norm.item<double>(), 300.0 * std::sqrt(1000.0), 0.01);
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
  EXPECT_TRUE(std::isnan(clip_grad_norm_({a}, 1.0).item<float>()));
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
}  // namespace halftone
