// SPDX-License-Identifier: Apache-2.0
#include <ATen/Functions.h>
#include <gtest/gtest.h>

#include <limits>

#include "halftone/probe/number_difference_impl.h"

namespace halftone::number_difference_test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(NumberDifference, IsThatOfTheNumbersInFp64) {
  torch::manual_seed(1);
  for (const std::int64_t size : {1, 15, 16, 1000, 1024, 70001}) {
    const torch::Tensor wide = torch::randn({size}) * 30;
    const torch::Tensor narrow = wide.to(torch::kBFloat16);
    const NumberDifference found = difference(narrow, wide);
    const torch::Tensor x = wide.to(torch::kDouble), y = narrow.to(torch::kDouble);
    EXPECT_EQ(found.numbers, size);
    EXPECT_NEAR(found.relative_error(), ((y - x).norm() / x.norm()).item<double>(), 1e-6);
    EXPECT_NEAR(found.cosine(), ((x * y).sum() / x.norm() / y.norm()).item<double>(), 1e-6);
  }
}

TEST(NumberDifference, CountsWhatIsFlushedAndWhatOverflows) {
  const torch::Tensor wide = torch::tensor({1e-9F, -1e-9F, 0.0F, 1e5F, kInf, 3.0F});
  const NumberDifference found = difference(wide.to(torch::kHalf), wide);
  EXPECT_EQ(found.flushed, 2);
  EXPECT_EQ(found.overflowed, 1);              // inf is inf in both
  EXPECT_NEAR(found.squared_wide, 9.0, 1e-6);  // of what is finite in both
}

TEST(NumberDifference, HoldsSquaresBeyondFp32) {
  const torch::Tensor wide = torch::full({2000}, 1e30F);
  const NumberDifference found = difference((wide * 1.01F).to(torch::kBFloat16), wide);
  EXPECT_NEAR(found.relative_error(), 0.01, 0.005);
  EXPECT_NEAR(found.cosine(), 1.0, 1e-9);
}

TEST(NumberDifference, AddsUpOverCalls) {
  const torch::Tensor a = torch::randn({100}), b = torch::randn({300});
  NumberDifference sum = difference(a.to(torch::kHalf), a);
  sum += difference(b.to(torch::kHalf), b);
  const torch::Tensor both = torch::cat({a, b});
  EXPECT_NEAR(sum.relative_error(), difference(both.to(torch::kHalf), both).relative_error(), 1e-9);
}

TEST(NumberDifference, OfNothingIsNone) {
  const torch::Tensor zero = torch::zeros({4});
  EXPECT_EQ(difference(zero.to(torch::kHalf), zero).relative_error(), 0.0);
  EXPECT_EQ(difference(zero.to(torch::kHalf), zero).cosine(), 1.0);
  const torch::Tensor tiny = torch::full({4}, 1e-9F);
  EXPECT_EQ(difference(tiny.to(torch::kHalf), tiny).relative_error(), 1.0);
  EXPECT_EQ(difference(tiny.to(torch::kHalf), tiny).cosine(), 0.0);
}

}  // namespace
}  // namespace halftone::number_difference_test
