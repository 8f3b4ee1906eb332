// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/optimizer/moments.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/instruction_sets.h"
#include "support/on_devices.h"

namespace halftone::moments_test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr Moment kMoments[] = {Moment::kFirst, Moment::kSecond};

struct Encoded {
  torch::Tensor codes, scales;
};

Encoded empty_for(std::int64_t n) {
  return {torch::full({n}, 77, torch::kByte), torch::full({moment_scales(n)}, -1.0F)};
}

Encoded encoded(const torch::Tensor& values, Moment moment) {
  const Encoded to = empty_for(values.numel());
  encode_moments_(values, moment, to.codes, to.scales);
  return to;
}

Encoded encoded_by_definition(const torch::Tensor& values, Moment moment) {
  const Encoded to = empty_for(values.numel());
  encode_moments_reference_(values, moment, to.codes, to.scales);
  return to;
}

// Values whose scale is 1: each block of 256 ends in a 1.
torch::Tensor with_ones(const torch::Tensor& values) {
  return torch::cat({values.view({-1, 255}), torch::ones({values.numel() / 255, 1})}, 1).flatten();
}

// In [0, 1], as dense near 0 as a logarithm; as many as fill blocks of 255.
torch::Tensor logarithmic(std::int64_t blocks) {
  return torch::pow(10.0, torch::rand({blocks * 255}, torch::kDouble) * -8).to(torch::kFloat);
}

// The map's values in order, in fp64, each with its byte.
std::vector<std::pair<double, int>> sorted_map(Moment moment) {
  const torch::Tensor map = dynamic_map(moment);
  std::vector<std::pair<double, int>> sorted;
  for (int byte = 0; byte < 256; ++byte) sorted.emplace_back(map[byte].item<float>(), byte);
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

// The byte of the nearest value, away from 0 between two: a search that shares nothing with ours.
int nearest(const std::vector<std::pair<double, int>>& map, double x) {
  const auto above = std::lower_bound(map.begin(), map.end(), std::pair{x, -1});
  if (above == map.begin()) return above->second;
  if (above == map.end()) return map.back().second;
  const auto below = std::prev(above);
  const double up = above->first - x;
  const double down = x - below->first;
  if (up == down) return x > 0 ? above->second : below->second;
  return up < down ? above->second : below->second;
}

// The floats next to every value and to the middle between any two neighbours.
torch::Tensor hard_cases(Moment moment) {
  const auto map = sorted_map(moment);
  std::vector<float> cases;
  const auto add = [&](double x) {
    auto value = static_cast<float>(x);
    for (int k = 0; k < 3; ++k) value = std::nextafter(value, -2.0F);
    for (int k = 0; k < 7; ++k, value = std::nextafter(value, 2.0F))
      if (value >= -1 && value <= 1 && (moment == Moment::kFirst || value >= 0))
        cases.push_back(value);
  };
  for (std::size_t k = 0; k < map.size(); ++k) {
    add(map[k].first);
    if (k > 0) add((map[k].first + map[k - 1].first) / 2);
  }
  for (const float x : {0.0F, 1e-45F, 1e-38F, 1e-20F, 1e-7F}) add(x);
  cases.resize((cases.size() / 255 + 1) * 255, 0.25F);
  return torch::tensor(cases);
}

TEST(DynamicMap, SpansSevenDecadesWithEqualStepsInEach) {
  for (const Moment moment : kMoments) {
    const bool with_sign = moment == Moment::kFirst;
    const auto map = sorted_map(moment);
    EXPECT_EQ(map.back().first, 1.0);
    // As in the paper: the means of neighbouring points of linspace(0.1, 1) in each decade.
    std::vector<double> expected = {0.0, 1.0};
    for (int decade = 0; decade < 7; ++decade) {
      const int codes = 1 << (with_sign ? decade : decade + 1);
      for (int j = 0; j < codes; ++j) {
        const double value = std::pow(10.0, decade - 6) * (0.1 + 0.9 * (j + 0.5) / codes);
        expected.push_back(value);
        if (with_sign) expected.push_back(-value);
      }
    }
    std::sort(expected.begin(), expected.end());
    ASSERT_EQ(expected.size(), map.size());
    for (std::size_t k = 0; k < map.size(); ++k)
      EXPECT_NEAR(map[k].first, expected[k], 1e-6 * std::abs(expected[k]));
  }
}

TEST(Moments, EveryCodeComesBack) {
  for (const Moment moment : kMoments) {
    const torch::Tensor codes = torch::arange(256, torch::kByte);
    const torch::Tensor scales = torch::full({1}, 0.375F);
    const torch::Tensor values = decoded_moments(codes, scales, moment);
    const torch::Tensor map = dynamic_map(moment) * 0.375F;
    EXPECT_TRUE(torch::equal(values, moment == Moment::kFirst ? map : map * map));
    const Encoded again = encoded(values, moment);
    EXPECT_TRUE(torch::equal(again.codes, codes));
    EXPECT_EQ(again.scales[0].item<float>(), 0.375F);
  }
}

TEST(Moments, TakeTheNearestCodeOfMillionsOfValues) {
  torch::manual_seed(1);
  for (const Moment moment : kMoments) {
    torch::Tensor x =
        torch::cat({hard_cases(moment), logarithmic(2000), torch::rand({2000 * 255})});
    if (moment == Moment::kFirst) x = torch::cat({x, -x});
    x = with_ones(x);
    // The map of exp_avg_sq takes roots, and the root of a rounded square is what was squared.
    const Encoded ours = encoded(moment == Moment::kFirst ? x : x * x, moment);
    const auto map = sorted_map(moment);
    const auto* value = x.const_data_ptr<float>();
    const auto* code = ours.codes.const_data_ptr<std::uint8_t>();
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < x.numel(); ++i) {
      const int least = moment == Moment::kSecond && value[i] * value[i] > 0 ? 1 : 0;
      wrong += code[i] != std::max(least, nearest(map, double{value[i]}));
    }
    EXPECT_EQ(wrong, 0) << "of " << x.numel();
  }
}

TEST(Moments, HaveTheBitsOfTheDefinitionOnEveryInstructionSet) {
  torch::manual_seed(2);
  for (const Moment moment : kMoments) {
    for (const std::int64_t size : {0, 1, 15, 255, 256, 257, 1000, 40007}) {
      torch::Tensor values = torch::randn({size}) * torch::pow(10.0, torch::randn({size}) * 3);
      if (moment == Moment::kSecond) values = values.square();
      const Encoded reference = encoded_by_definition(values, moment);
      const torch::Tensor back =
          decoded_moments_reference(reference.codes, reference.scales, moment);
      test::for_each_instruction_set([&] {
        const Encoded ours = encoded(values, moment);
        EXPECT_TRUE(torch::equal(ours.codes, reference.codes)) << size;
        EXPECT_TRUE(torch::equal(ours.scales, reference.scales)) << size;
        EXPECT_TRUE(torch::equal(decoded_moments(ours.codes, ours.scales, moment), back)) << size;
      });
    }
    const torch::Tensor hard = with_ones(hard_cases(moment));
    const Encoded reference = encoded_by_definition(hard, moment);
    test::for_each_instruction_set(
        [&] { EXPECT_TRUE(torch::equal(encoded(hard, moment).codes, reference.codes)); });
  }
}

using MomentsOff = test::OnDevices;
HALFTONE_OFF_THE_CPU(MomentsOff);

TEST_P(MomentsOff, AreTheCpusButForAFewRoundings) {
  torch::manual_seed(4);
  for (const Moment moment : kMoments) {
    torch::Tensor values = torch::randn({40007}) * torch::pow(10.0, torch::randn({40007}) * 3);
    if (moment == Moment::kSecond) values = values.square();
    const Encoded expected = encoded(values, moment);
    const Encoded ours = {here(empty_for(40007).codes), here(empty_for(40007).scales)};
    encode_moments_(here(values), moment, ours.codes, ours.scales);
    EXPECT_TRUE(torch::allclose(ours.scales.cpu(), expected.scales, 1e-6, 0.0));
    EXPECT_LT(ours.codes.cpu().ne(expected.codes).to(torch::kFloat).mean().item<float>(), 1e-3F);
    const torch::Tensor back = decoded_moments(here(expected.codes), here(expected.scales), moment);
    EXPECT_TRUE(torch::allclose(
        back.cpu(), decoded_moments(expected.codes, expected.scales, moment), 1e-6, 0.0));
  }
}

// Half the distance of neighbouring codes: 0.45 of a decade's lower end by the number of its codes.
TEST(Moments, KeepWithinTheErrorOfTheirMap) {
  torch::manual_seed(3);
  const torch::Tensor x = with_ones(logarithmic(500));
  const torch::Tensor first =
      (decoded_moments(encoded(x, Moment::kFirst).codes, torch::ones({500}), Moment::kFirst) - x)
          .abs();
  EXPECT_LE(first.max().item<float>(), 0.9 / 64 / 2 * 1.001);
  const torch::Tensor relative = (first / x).masked_select(x.gt(1e-4F));
  EXPECT_LE(relative.max().item<float>(), 0.45 / 8 * 10 * 1.02);
  const Encoded squares = encoded(x * x, Moment::kSecond);
  const torch::Tensor roots =
      decoded_moments(squares.codes, squares.scales, Moment::kSecond).sqrt();
  EXPECT_LE((roots - x).abs().max().item<float>(), 0.9 / 128 / 2 * 1.001);
  EXPECT_LE(((roots - x).abs() / x).masked_select(x.gt(1e-2F)).max().item<float>(), 0.072);
}

TEST(Moments, AZeroStaysOneAndSmallSecondMomentsLiveAsLongAsFirstOnes) {
  torch::Tensor gradients = torch::full({256}, 1e-6F);
  gradients[0] = 1.0F;
  gradients[1] = 0.0F;
  const Encoded first = encoded(gradients, Moment::kFirst);
  const Encoded second = encoded(gradients.square(), Moment::kSecond);
  const torch::Tensor m = decoded_moments(first.codes, first.scales, Moment::kFirst);
  const torch::Tensor v = decoded_moments(second.codes, second.scales, Moment::kSecond);
  EXPECT_EQ(m[1].item<float>(), 0.0F);
  EXPECT_EQ(v[1].item<float>(), 0.0F);
  EXPECT_GT(m[2].item<float>(), 0.0F);
  EXPECT_GT(v[2].item<float>(), 0.0F);
}

TEST(Moments, WhatIsNotFiniteSpoilsItsBlockAlone) {
  for (const Moment moment : kMoments) {
    for (const float bad : {kInf, NAN}) {
      if (moment == Moment::kSecond && bad == kInf) continue;  // the square of a finite gradient
      torch::Tensor values = torch::full({768}, 0.25F);
      values[300] = bad;
      for (const auto encode : {encoded, encoded_by_definition}) {
        const Encoded ours = encode(values, moment);
        const torch::Tensor back = decoded_moments(ours.codes, ours.scales, moment);
        EXPECT_TRUE(back.slice(0, 256, 512).isnan().all().item<bool>());
        EXPECT_TRUE(back.slice(0, 0, 256).eq(0.25F).all().item<bool>());
        EXPECT_TRUE(back.slice(0, 512).eq(0.25F).all().item<bool>());
      }
    }
  }
}

TEST(Moments, ASquareBeyondFp32IsStoredAsTheLargest) {
  torch::Tensor values = torch::full({300}, 1e30F);
  values[7] = kInf;
  values[8] = std::numeric_limits<float>::max();
  for (const auto encode : {encoded, encoded_by_definition}) {
    const Encoded ours = encode(values, Moment::kSecond);
    const torch::Tensor back = decoded_moments(ours.codes, ours.scales, Moment::kSecond);
    EXPECT_TRUE(back.isfinite().all().item<bool>());
    EXPECT_GT(back[7].item<float>(), 3.4e38F);
    EXPECT_EQ(back[7].item<float>(), back[8].item<float>());
    EXPECT_NEAR(back[0].item<float>() / 1e30F, 1.0, 0.6);
    EXPECT_FLOAT_EQ(back[299].item<float>(), 1e30F);
  }
}

// The smallest root that is not 0 is not 0 either, however large the block's largest.
TEST(Moments, NoRootBecomesZero) {
  torch::Tensor values = torch::full({256}, 1e-36F);
  values[0] = 1e36F;
  values[1] = 0.0F;
  for (const auto encode : {encoded, encoded_by_definition}) {
    const Encoded ours = encode(values, Moment::kSecond);
    EXPECT_EQ(ours.codes[1].item<int>(), 0);
    EXPECT_TRUE(ours.codes.slice(0, 2).eq(1).all().item<bool>());
  }
}

TEST(Moments, TinyBlocksAreZeroAndLargeOnesKeepTheirScale) {
  for (const auto encode : {encoded, encoded_by_definition}) {
    const Encoded tiny = encode(torch::full({256}, 1e-40F), Moment::kFirst);
    EXPECT_EQ(decoded_moments(tiny.codes, tiny.scales, Moment::kFirst).abs().max().item<float>(),
              0.0F);
    const Encoded large = encode(torch::full({3}, -3e38F), Moment::kFirst);
    EXPECT_NEAR(
        decoded_moments(large.codes, large.scales, Moment::kFirst)[2].item<float>() / -3e38F, 1.0F,
        0.9 / 64);
  }
}

TEST(Moments, RefuseOtherDtypesAndSizes) {
  const Encoded to = empty_for(300);
  EXPECT_THROW(encode_moments_(torch::zeros({299}), Moment::kFirst, to.codes, to.scales),
               c10::Error);
  EXPECT_THROW(
      encode_moments_(torch::zeros({300}, torch::kDouble), Moment::kFirst, to.codes, to.scales),
      c10::Error);
  EXPECT_THROW(decoded_moments(to.codes, torch::zeros({1}), Moment::kFirst), c10::Error);
  EXPECT_THROW(decoded_moments(to.codes.to(torch::kChar), to.scales, Moment::kFirst), c10::Error);
}

}  // namespace
}  // namespace halftone::moments_test
