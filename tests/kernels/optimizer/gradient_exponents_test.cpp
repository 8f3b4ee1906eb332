// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/optimizer/gradient_exponents.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "support/on_devices.h"

namespace halftone::gradient_exponents_test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// The definition once more, value by value in fp64.
std::vector<std::int64_t> counted_one_by_one(const torch::Tensor& values) {
  std::vector<std::int64_t> bins(static_cast<std::size_t>(kExponentBins));
  const torch::Tensor flat = values.to(torch::kCPU, torch::kDouble).contiguous().reshape({-1});
  for (std::int64_t i = 0; i < flat.numel(); ++i) {
    const double x = std::abs(flat[i].item<double>());
    std::int64_t bin = 255;
    if (x == 0.0) {
      bin = 0;
    } else if (std::isfinite(x)) {
      bin = std::max<std::int64_t>(std::ilogb(x) + 127, 1);
    }
    ++bins[static_cast<std::size_t>(bin)];
  }
  return bins;
}

std::vector<std::int64_t> to_vector(const torch::Tensor& histogram) {
  const torch::Tensor host = histogram.cpu();
  const auto* counts = host.const_data_ptr<std::int64_t>();
  return {counts, counts + host.numel()};
}

torch::Tensor spread(std::int64_t size, torch::ScalarType dtype) {
  torch::manual_seed(7);
  torch::Tensor values = torch::randn({size}) * torch::exp2(torch::randint(-150, 127, {size}));
  if (dtype == torch::kHalf)
    values = torch::randn({size}) * torch::exp2(torch::randint(-30, 15, {size}));
  if (size > 3) {
    values[0] = 0.0;
    values[1] = kInf;
    values[2] = NAN;
    values[3] = -0.0;
  }
  return values.to(dtype);
}

using ExponentHistogramOn = test::OnDevices;
HALFTONE_ON_DEVICES(ExponentHistogramOn);

TEST_P(ExponentHistogramOn, CountsEverySizeAndDtype) {
  for (const auto dtype : {torch::kFloat, torch::kHalf, torch::kBFloat16}) {
    for (const std::int64_t size : {0, 1, 2, 3, 4, 5, 63, 1025}) {
      const torch::Tensor values = here(spread(size, dtype));
      EXPECT_EQ(to_vector(exponent_histogram(values)), counted_one_by_one(values))
          << dtype << " " << size;
    }
  }
}

TEST(ExponentHistogram, AgreesWithItsDefinitionOverSeveralThreads) {
  for (const auto dtype : {torch::kFloat, torch::kHalf, torch::kBFloat16}) {
    const torch::Tensor values = spread(300001, dtype);
    EXPECT_TRUE(torch::equal(exponent_histogram(values), exponent_histogram_reference(values)));
    EXPECT_EQ(exponent_histogram(values).sum().item<std::int64_t>(), 300001);
  }
}

TEST_P(ExponentHistogramOn, CountsEveryFp16Value) {
  const torch::Tensor bits = torch::arange(-32768, 32768, torch::kShort);
  const torch::Tensor values = here(bits.view(torch::kHalf));
  EXPECT_EQ(to_vector(exponent_histogram(values)), counted_one_by_one(values));
}

TEST_P(ExponentHistogramOn, TakesUnalignedAndStridedTensorsAndFp64) {
  const torch::Tensor values = here(spread(99, torch::kFloat));
  EXPECT_EQ(to_vector(exponent_histogram(values.slice(0, 1))),
            counted_one_by_one(values.slice(0, 1)));
  const torch::Tensor grid = values.reshape({9, 11}).t().slice(0, 0, 11, 2);
  EXPECT_EQ(to_vector(exponent_histogram(grid)), counted_one_by_one(grid));
  const torch::Tensor wide = here(torch::tensor({1.0, 0.25, 1e300, 3.0}, torch::kDouble));
  const torch::Tensor histogram = exponent_histogram(wide);
  EXPECT_EQ(histogram[exponent_bin(0)].item<std::int64_t>(), 1);
  EXPECT_EQ(histogram[exponent_bin(-2)].item<std::int64_t>(), 1);
  EXPECT_EQ(histogram[exponent_bin(1)].item<std::int64_t>(), 1);
  EXPECT_EQ(histogram[255].item<std::int64_t>(), 1);  // beyond fp32
}

TEST(ExponentHistogram, RefusesWhatHasNoExponents) {
  EXPECT_THROW(exponent_histogram(torch::ones({3}, torch::kLong)), c10::Error);
  EXPECT_THROW(exponent_histogram(torch::eye(3).to_sparse()), c10::Error);
}

}  // namespace
}  // namespace halftone::gradient_exponents_test
