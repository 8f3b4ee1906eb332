// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/optimizer/layer_summary.h"

#include <gtest/gtest.h>
#include <torch/utils.h>

#include <cmath>
#include <limits>
#include <vector>

#include "support/instruction_sets.h"
#include "support/on_devices.h"

namespace halftone::layer_summary_test {
namespace {

using torch::Tensor;

constexpr double kInf = std::numeric_limits<double>::infinity();

// The definition once more, value by value in fp64.
GradientSummary summed_one_by_one(const Tensor& gradient, const FormatFloor& floor) {
  GradientSummary summary;
  const std::int64_t rows = gradient.dim() >= 2 ? gradient.size(0) : 1;
  const std::int64_t length = rows == 0 ? 0 : gradient.numel() / rows;
  const Tensor values = gradient.to(torch::kCPU, torch::kDouble).reshape({rows, length});
  for (std::int64_t row = 0; row < rows; ++row) {
    std::int64_t zeros = 0;
    for (std::int64_t i = 0; i < values.size(1); ++i) {
      const auto x = std::abs(values[row][i].item<double>());
      summary.norm_squared += x * x;
      if (!std::isfinite(x)) {
        ++summary.non_finite;
      } else if (x == 0.0) {
        ++zeros;
      } else {
        summary.largest = std::max(summary.largest, x);
        summary.flushed += x <= floor.flushed ? 1 : 0;
        summary.subnormal += x < floor.normal ? 1 : 0;
      }
    }
    summary.zeros += zeros;
    if (zeros < values.size(1)) summary.zeros_in_live_rows += zeros;
  }
  return summary;
}

void expect_same(const GradientSummary& actual, const GradientSummary& expected) {
  EXPECT_NEAR(actual.norm_squared, expected.norm_squared, 1e-12 * expected.norm_squared);
  EXPECT_EQ(actual.largest, expected.largest);
  EXPECT_EQ(actual.zeros, expected.zeros);
  EXPECT_EQ(actual.zeros_in_live_rows, expected.zeros_in_live_rows);
  EXPECT_EQ(actual.flushed, expected.flushed);
  EXPECT_EQ(actual.subnormal, expected.subnormal);
  EXPECT_EQ(actual.non_finite, expected.non_finite);
}

// Powers of two around the ends of fp16, with zeros in between.
Tensor small_values(std::vector<std::int64_t> sizes, torch::ScalarType dtype) {
  torch::manual_seed(3);
  Tensor values = torch::randn(sizes) * torch::exp2(torch::randint(-30, -10, sizes));
  values.masked_fill_(torch::rand(sizes).lt(0.2), 0.0);
  return values.to(dtype);
}

using GradientSummaryOn = test::OnDevices;
HALFTONE_ON_DEVICES(GradientSummaryOn);

TEST_P(GradientSummaryOn, CountsEveryDtypeAndShape) {
  const FormatFloor floor = format_floor(torch::kHalf);
  for (const auto dtype : {torch::kFloat, torch::kHalf, torch::kBFloat16, torch::kDouble}) {
    for (const std::vector<std::int64_t>& sizes :
         {std::vector<std::int64_t>{}, {0}, {1}, {7}, {8}, {9}, {63}, {3, 5}, {4, 2, 3}, {0, 3}}) {
      SCOPED_TRACE(c10::str(dtype, " ", at::IntArrayRef(sizes)));
      const Tensor values = here(small_values(sizes, dtype));
      expect_same(gradient_summary_of(gradient_summary(values, floor)),
                  summed_one_by_one(values, floor));
    }
  }
}

TEST_P(GradientSummaryOn, TellsRowsOfZerosFromZerosBesideNumbers) {
  Tensor gradient = torch::zeros({3, 40'000});  // rows are longer than a chunk
  gradient[0][39'999] = 1.0;
  gradient[2][5] = 2.0;
  gradient[2][6] = -0.0;
  const GradientSummary summary =
      gradient_summary_of(gradient_summary(here(gradient), format_floor(torch::kHalf)));
  EXPECT_EQ(summary.zeros, 120'000 - 2);
  EXPECT_EQ(summary.zeros_in_live_rows, 80'000 - 2);
  EXPECT_EQ(summary.largest, 2.0);
}

TEST_P(GradientSummaryOn, FlushesWhatRoundingToNearestMakesZero) {
  for (const auto dtype : {torch::kHalf, torch::kBFloat16}) {
    const FormatFloor floor = format_floor(dtype);
    Tensor values = torch::tensor({0.5, 1.0, 1.01, 3.0, 7.0});
    values = (values.to(torch::kDouble) * floor.flushed).to(torch::kFloat);
    const Tensor rounded = values.to(dtype);
    const GradientSummary summary = gradient_summary_of(gradient_summary(here(values), floor));
    EXPECT_EQ(summary.flushed, rounded.eq(0).sum().item<std::int64_t>()) << dtype;
    EXPECT_EQ(summary.flushed, 2) << dtype;
    EXPECT_EQ(summary.subnormal, 5) << dtype;
  }
  const Tensor tiny = torch::tensor({1e-45F, 1e-38F, 1.0F});
  const GradientSummary summary =
      gradient_summary_of(gradient_summary(here(tiny), format_floor(torch::kFloat)));
  EXPECT_EQ(summary.flushed, 0);
  EXPECT_EQ(summary.subnormal, 2);
  EXPECT_EQ(summary.zeros, 0);
}

TEST_P(GradientSummaryOn, CountsWhatIsNotFinite) {
  const Tensor values = torch::tensor({1.0, -kInf, kInf - kInf, 0.0, 3.0}, torch::kFloat);
  const GradientSummary summary =
      gradient_summary_of(gradient_summary(here(values), format_floor(torch::kHalf)));
  EXPECT_EQ(summary.non_finite, 2);
  EXPECT_EQ(summary.largest, 3.0);
  EXPECT_EQ(summary.zeros, 1);
  EXPECT_FALSE(std::isfinite(summary.norm_squared));
}

TEST(LayerSummary, IsThatOfEveryInstructionSetAndThread) {
  const Tensor gradient = small_values({70, 1111}, torch::kFloat);
  const Tensor before = torch::randn({70, 1111}), after = before + gradient;
  const FormatFloor floor = format_floor(torch::kHalf);
  const GradientSummary expected = summed_one_by_one(gradient, floor);
  const Tensor update = update_summary_reference(before, after, gradient);
  test::for_each_instruction_set([&] {
    expect_same(gradient_summary_of(gradient_summary(gradient, floor)), expected);
    EXPECT_TRUE(torch::allclose(update_summary(before, after, gradient), update, 1e-12));
  });
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const Tensor one = gradient_summary(gradient, floor);
  const Tensor one_update = update_summary(before, after, gradient);
  at::set_num_threads(2);
  EXPECT_TRUE(gradient_summary(gradient, floor).equal(one));
  EXPECT_TRUE(update_summary(before, after, gradient).equal(one_update));
  at::set_num_threads(threads);
}

using UpdateSummaryOn = test::OnDevices;
HALFTONE_ON_DEVICES(UpdateSummaryOn);

TEST_P(UpdateSummaryOn, ComparesEveryDtype) {
  for (const auto dtype : {torch::kFloat, torch::kHalf, torch::kBFloat16, torch::kDouble}) {
    for (const auto gradient_dtype : {dtype, torch::kFloat}) {
      for (const std::int64_t size : {0, 1, 8, 9, 1025}) {
        SCOPED_TRACE(c10::str(dtype, " ", gradient_dtype, " ", size));
        torch::manual_seed(5);
        const Tensor before = torch::randn({size}).to(dtype);
        Tensor after = (before.to(torch::kDouble) + torch::randn({size}) * 1e-3).to(dtype);
        const Tensor gradient =
            torch::randn({size}).masked_fill(torch::rand({size}).lt(0.3), 0.0).to(gradient_dtype);
        const UpdateSummary summary =
            update_summary_of(update_summary(here(before), here(after), here(gradient)));
        const Tensor was = before.to(torch::kDouble), is = after.to(torch::kDouble);
        const double change = (is - was).square().sum().item<double>();
        EXPECT_NEAR(summary.change_squared, change, 1e-6 * change);
        const double weight = was.square().sum().item<double>();
        EXPECT_NEAR(summary.weight_squared, weight, 1e-12 * weight);
        const Tensor live = gradient.ne(0);
        EXPECT_EQ(summary.with_gradient, live.sum().item<std::int64_t>());
        EXPECT_EQ(summary.unchanged, (live & is.eq(was)).sum().item<std::int64_t>());
        if (dtype == torch::kBFloat16 && size == 1025) {
          EXPECT_GT(summary.unchanged, 100);
        }
      }
    }
  }
}

TEST(LayerSummary, RefusesWhatDoesNotFit) {
  EXPECT_THROW(gradient_summary(torch::ones({3}, torch::kLong), {}), c10::Error);
  EXPECT_THROW(gradient_summary(torch::eye(3).to_sparse(), {}), c10::Error);
  const Tensor x = torch::ones({3});
  EXPECT_THROW(update_summary(x, x, torch::ones({4})), c10::Error);
  EXPECT_THROW(update_summary(x.to(torch::kBFloat16), x, x), c10::Error);
}

}  // namespace
}  // namespace halftone::layer_summary_test
