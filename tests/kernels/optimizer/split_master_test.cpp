// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/optimizer/split_master.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "halftone/kernels/common/stochastic_rounding.h"
#include "support/on_devices.h"

namespace halftone::split_master_test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

torch::Tensor bits(const torch::Tensor& x) { return x.view(torch::kInt); }

torch::Tensor masters() {
  torch::manual_seed(1);
  return torch::cat({torch::randn({1000}), torch::randn({1000}) * 1e-30F,
                     torch::tensor({0.0F, -0.0F, 1e-45F, -1e-39F, 3.4e38F, kInf, -kInf, NAN})});
}

using SplitMasterOn = test::OnDevices;
HALFTONE_ON_DEVICES(SplitMasterOn);

TEST_P(SplitMasterOn, SixteenBitsAreExact) {
  const torch::Tensor master = here(masters());
  const SplitMaster split = split_master(master, torch::kShort);
  EXPECT_TRUE(torch::equal(bits(joined_master(split)), bits(master)));
  // Cut off, towards 0: never larger in magnitude, and within a bfloat16's last place.
  const torch::Tensor weights = split.weights.to(torch::kFloat);
  EXPECT_TRUE(torch::equal(bits(weights), bits(master).bitwise_and(-65536)));
}

TEST_P(SplitMasterOn, EightBitsAreTheNearestNumberOf24) {
  const torch::Tensor master = masters();
  const torch::Tensor rounded = rounded_to_24_bits(here(master)).cpu();
  const torch::Tensor back = joined_master(split_master(here(rounded), torch::kByte)).cpu();
  EXPECT_TRUE(torch::equal(bits(back), bits(rounded)));
  // The reference: 16 significant bits in fp64, where nearbyint() rounds ties to even.
  for (std::int64_t i = 0; i < master.numel(); ++i) {
    const auto value = double{master[i].item<float>()};
    const auto ours = double{rounded[i].item<float>()};
    if (!std::isfinite(value)) {
      EXPECT_EQ(std::isnan(ours), std::isnan(value));
      EXPECT_EQ(std::isinf(value) ? ours : 0.0, std::isinf(value) ? value : 0.0);
      continue;
    }
    if (std::abs(value) < double{std::numeric_limits<float>::min()}) continue;
    const double unit = std::exp2(std::ilogb(value) - 15);
    EXPECT_EQ(ours, static_cast<double>(static_cast<float>(std::nearbyint(value / unit) * unit)));
  }
  EXPECT_EQ(rounded_to_24_bits(torch::tensor({3.4028235e38F})).item<float>(), kInf);
}

TEST(SplitMaster, StochasticRoundingTo24BitsKeepsTheMean) {
  constexpr std::int64_t kDraws = 1000000;
  const float unit = std::exp2(-15.0F);
  for (const double share : {0.1, 0.5, 0.875}) {
    const auto value = static_cast<float>(1.0 + std::floor(share * 256) / 256 * unit);
    const double exact = std::floor(share * 256) / 256;
    const torch::Tensor words = step_words(3, torch::tensor(std::int64_t{1}), 0, kDraws);
    const torch::Tensor rounded = rounded_to_24_bits(torch::full({kDraws}, value), words);
    EXPECT_TRUE((rounded.eq(1.0F) | rounded.eq(1.0F + unit)).all().item<bool>());
    EXPECT_NEAR(rounded.eq(1.0F + unit).to(torch::kDouble).mean().item<double>(), exact,
                6 * std::sqrt(exact * (1 - exact) / kDraws));
  }
}

TEST_P(SplitMasterOn, LowerPartsChangeWidthWithoutTouchingTheWeight) {
  const torch::Tensor low8 = here(torch::arange(256, torch::kByte));
  EXPECT_TRUE(torch::equal(master_low_as(master_low_as(low8, torch::kShort), torch::kByte), low8));
  const torch::Tensor low16 = here(torch::arange(65536, torch::kInt));
  const torch::Tensor expected = (low16.to(torch::kDouble) / 256).round().clamp_max(255);
  EXPECT_TRUE(torch::equal(master_low_as(low16.to(torch::kShort), torch::kByte),
                           expected.to(torch::kByte)));
}

TEST(SplitMaster, RefusesOtherDtypes) {
  EXPECT_THROW(split_master(torch::zeros({2}), torch::kInt), c10::Error);
  EXPECT_THROW(split_master(torch::zeros({2}, torch::kDouble), torch::kShort), c10::Error);
  EXPECT_THROW(joined_master({torch::zeros({2}), torch::zeros({2}, torch::kShort)}), c10::Error);
}

}  // namespace
}  // namespace halftone::split_master_test
