// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/optimizer/gradient_stats.h"

#include <gtest/gtest.h>
#include <torch/utils.h>

#include <cmath>
#include <limits>

#include "support/instruction_sets.h"
#include "support/on_devices.h"

namespace halftone::gradient_stats_test {
namespace {

constexpr double kRelative = 1e-13;  // fp64 sums in two orders

void expect_close(const RangeStats& a, const RangeStats& b) {
  ASSERT_EQ(a.norm_squared.numel(), b.norm_squared.numel());
  EXPECT_TRUE(torch::allclose(a.norm_squared.cpu(), b.norm_squared.cpu(), kRelative, 0.0, true));
  EXPECT_TRUE(torch::equal(a.non_finite.cpu(), b.non_finite.cpu()));
}

using GradientStatsOn = test::OnDevices;
HALFTONE_ON_DEVICES(GradientStatsOn);

TEST_P(GradientStatsOn, EqualsTheCompositionForEverySizeAndDtype) {
  torch::manual_seed(1);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    const torch::Tensor flat = here((torch::randn({100003}) * 30).to(dtype));
    const std::vector<Range> ranges = {{0, 0},   {0, 1},     {1, 8},       {3, 20},
                                       {5, 136}, {7, 40007}, {31, 100003}, {100003, 100003}};
    const torch::Tensor host = flat.cpu();
    expect_close(gradient_stats(flat, ranges), gradient_stats_reference(host, ranges));
    expect_close(gradient_stats(flat, {}), gradient_stats_reference(host, {}));
  }
}

TEST_P(GradientStatsOn, SquaresOfLargeFloatsDoNotOverflow) {
  const torch::Tensor flat = here(torch::full({5}, 3e38F));
  const RangeStats stats = gradient_stats(flat, {{0, 5}});
  const double value = flat[0].item<double>();
  EXPECT_DOUBLE_EQ(stats.norm_squared.item<double>(), 5 * value * value);
  EXPECT_EQ(stats.non_finite.item<std::int64_t>(), 0);
}

TEST_P(GradientStatsOn, CountsEveryInfAndNanWhereverItStands) {
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    for (std::int64_t at = 0; at < 37; ++at) {
      const torch::Tensor flat = here(torch::ones({37}, dtype));
      flat[at] = at % 2 == 0 ? std::numeric_limits<double>::infinity() : NAN;
      const RangeStats stats = gradient_stats(flat, {{0, 20}, {20, 37}});
      EXPECT_EQ(stats.non_finite[0].item<std::int64_t>(), at < 20);
      EXPECT_EQ(stats.non_finite[1].item<std::int64_t>(), at >= 20);
      EXPECT_EQ(std::isfinite(stats.norm_squared[0].item<double>()), at >= 20);
      EXPECT_EQ(std::isfinite(stats.norm_squared[1].item<double>()), at < 20);
    }
  }
}

TEST(GradientStats, HasTheSameBitsForAnyNumberOfThreads) {
  torch::manual_seed(2);
  const torch::Tensor flat = torch::randn({300007});
  const int before = torch::get_num_threads();
  torch::set_num_threads(1);
  const RangeStats one = gradient_stats(flat, {{0, 300007}});
  for (const int threads : {2, 3, 5}) {
    torch::set_num_threads(threads);
    EXPECT_TRUE(torch::equal(gradient_stats(flat, {{0, 300007}}).norm_squared, one.norm_squared));
  }
  torch::set_num_threads(before);
}

TEST(GradientStats, AgreesOnEveryInstructionSet) {
  torch::manual_seed(3);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    const torch::Tensor flat = torch::randn({100003}).to(dtype);
    const std::vector<Range> ranges = {{0, 11}, {11, 70000}, {70000, 100003}};
    const RangeStats reference = gradient_stats_reference(flat, ranges);
    int tried = 0;
    test::for_each_instruction_set([&] {
      expect_close(gradient_stats(flat, ranges), reference);
      ++tried;
    });
    EXPECT_GE(tried, 1);
  }
}

TEST(GradientStats, RefusesRangesOutsideAndOtherDtypes) {
  EXPECT_THROW(gradient_stats(torch::ones({4}), {{0, 5}}), c10::Error);
  EXPECT_THROW(gradient_stats(torch::ones({4}), {{-1, 2}}), c10::Error);
  EXPECT_THROW(gradient_stats(torch::ones({4}, torch::kDouble), {{0, 4}}), c10::Error);
  EXPECT_THROW(gradient_stats(torch::ones({4, 2}), {{0, 4}}), c10::Error);
}

}  // namespace
}  // namespace halftone::gradient_stats_test
