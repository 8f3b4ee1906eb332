// SPDX-License-Identifier: Apache-2.0
#include <ATen/Functions.h>
#include <gtest/gtest.h>

#include <limits>

#include "halftone/inspect/finite_scan_impl.h"

namespace halftone::finite_scan_test {
namespace {

const double kBad[] = {std::numeric_limits<double>::infinity(),
                       -std::numeric_limits<double>::infinity(),
                       std::numeric_limits<double>::quiet_NaN()};

TEST(FiniteScan, FindsEachBadNumberInEachFormatAnywhere) {
  for (const auto dtype : {torch::kHalf, torch::kBFloat16, torch::kFloat, torch::kDouble,
                           torch::kFloat8_e5m2, torch::kComplexFloat}) {
    for (const std::int64_t size : {1, 7, 1024, 1025, 200003}) {
      const torch::Tensor numbers = torch::linspace(-400, 400, size).to(dtype);
      EXPECT_FALSE(has_non_finite(numbers)) << dtype << " " << size;
      for (const std::int64_t at : {std::int64_t{0}, size / 2, size - 1}) {
        for (const double bad : kBad) {
          torch::Tensor spoilt = numbers.to(torch::kComplexFloat == dtype ? dtype : torch::kFloat);
          spoilt[at] = bad;
          EXPECT_TRUE(has_non_finite(spoilt.to(dtype))) << dtype << " " << size << " " << bad;
        }
      }
    }
  }
}

TEST(FiniteScan, TakesTheLargestNumbersForWhatTheyAre) {
  EXPECT_FALSE(has_non_finite(torch::tensor({65504.0F, -65504.0F, 0.0F}).to(torch::kHalf)));
  EXPECT_FALSE(has_non_finite(torch::full({3}, std::numeric_limits<float>::max())));
  EXPECT_FALSE(has_non_finite(torch::full({3}, std::numeric_limits<float>::denorm_min())));
  EXPECT_FALSE(
      has_non_finite(torch::full({3}, std::numeric_limits<double>::lowest(), torch::kDouble)));
}

TEST(FiniteScan, LooksAtTheViewAlone) {
  torch::Tensor whole = torch::zeros({6, 8});
  whole[2][3] = kBad[2];
  EXPECT_TRUE(has_non_finite(whole.t()));
  EXPECT_TRUE(has_non_finite(whole.slice(1, 3, 4)));
  EXPECT_FALSE(has_non_finite(whole.slice(1, 4, 8)));
  EXPECT_FALSE(has_non_finite(whole.slice(0, 3, 6, 2)));
  EXPECT_TRUE(has_non_finite(whole[2][3].expand({1000, 1000})));
  EXPECT_FALSE(has_non_finite(whole[0].unsqueeze(1).expand({8, 100000})));
}

TEST(CleanMemory, KnowsSpansUntilTheyAreWrittenTo) {
  CleanMemory clean;
  const torch::Tensor whole = torch::zeros({6, 8});
  clean.add(whole);
  EXPECT_TRUE(clean.contains(whole.t()));
  EXPECT_TRUE(clean.contains(whole.slice(1, 4, 8)));
  EXPECT_FALSE(clean.contains(torch::zeros({6, 8})));
  clean.forget(whole[3]);
  EXPECT_FALSE(clean.contains(whole));
  clean.add(whole.slice(1, 0, 4));  // with gaps, which nobody has looked at
  EXPECT_FALSE(clean.contains(whole.slice(1, 0, 4)));
  clean.add(whole);
  clean.clear();
  EXPECT_FALSE(clean.contains(whole));
}

}  // namespace
}  // namespace halftone::finite_scan_test
