// SPDX-License-Identifier: Apache-2.0
#include "halftone/data/samplers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "support/message_of.h"

namespace halftone::samplers_test {
namespace {

using test::message_of;
using testing::HasSubstr;
using Indices = std::vector<std::int64_t>;

SampledEpoch sampled_epoch(std::int64_t samples, std::int64_t epoch, std::uint64_t seed = 5) {
  return {samples, epoch, random_word(seed, static_cast<std::uint64_t>(epoch))};
}

Indices indices_of(const Sampler& sampler, const SampledEpoch& epoch) {
  Indices indices;
  for (std::int64_t place = 0; place < sampler.places(epoch.samples); ++place)
    indices.push_back(sampler.index_at(place, epoch));
  return indices;
}

Indices sorted(Indices indices) {
  std::sort(indices.begin(), indices.end());
  return indices;
}

Indices first_numbers(std::int64_t count) {
  Indices numbers(static_cast<std::size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

TEST(SequentialSampler, TakesSamplesAsTheyStand) {
  EXPECT_EQ(indices_of(SequentialSampler(), sampled_epoch(5, 3)), first_numbers(5));
}

TEST(ShuffledSampler, TakesEverySampleOnceInAnOrderOfTheEpochAndSeed) {
  for (const std::int64_t samples : {1, 2, 3, 64, 101}) {
    const Indices order = indices_of(ShuffledSampler(), sampled_epoch(samples, 0));
    EXPECT_EQ(sorted(order), first_numbers(samples));
    if (samples < 64) continue;
    EXPECT_NE(order, first_numbers(samples));
    EXPECT_NE(order, indices_of(ShuffledSampler(), sampled_epoch(samples, 1)));
    EXPECT_NE(order, indices_of(ShuffledSampler(), sampled_epoch(samples, 0, 6)));
    EXPECT_EQ(order, indices_of(ShuffledSampler(), sampled_epoch(samples, 0)));
  }
}

/// Pearson's statistic of `counts` against what `shares` lead one to expect.
double chi_square(const std::vector<double>& counts, const std::vector<double>& shares) {
  const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
  double sum = 0.0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double expected = shares[i] * total;
    if (expected > 0.0) sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return sum;
}

// guide: WeightedRandomSampler
TEST(WeightedSampler, DrawsInProportionToTheWeights) {
  const std::vector<double> weights = {0.0, 1.0, 2.5, 0.0, 0.5, 4.0, 1.0, 1.0, 0.0};
  const std::vector<double> shares = {0.0, 0.1, 0.25, 0.0, 0.05, 0.4, 0.1, 0.1, 0.0};
  std::vector<double> counts(9, 0.0);
  std::vector<double> pairs(81, 0.0), pair_shares(81, 0.0);
  const WeightedSampler sampler(weights, 20'000);
  for (std::int64_t epoch = 0; epoch < 5; ++epoch) {
    const Indices drawn = indices_of(sampler, sampled_epoch(9, epoch));
    ASSERT_EQ(drawn.size(), 20'000U);
    for (std::size_t i = 0; i < drawn.size(); ++i) {
      ++counts[static_cast<std::size_t>(drawn[i])];
      if (i % 2 == 1) ++pairs[static_cast<std::size_t>(drawn[i - 1] * 9 + drawn[i])];
    }
  }
  EXPECT_EQ(counts[0] + counts[3] + counts[8], 0.0) << "a weight of 0 is never drawn";
  // The 99.9th percentiles of chi square with 5 and 35 degrees of freedom.
  EXPECT_LT(chi_square(counts, shares), 20.52);
  for (std::size_t i = 0; i < 81; ++i) pair_shares[i] = shares[i / 9] * shares[i % 9];
  EXPECT_LT(chi_square(pairs, pair_shares), 66.62) << "draws do not depend on each other";
}

TEST(WeightedSampler, IsAFunctionOfSeedEpochAndPlace) {
  const WeightedSampler sampler(std::vector<double>(100, 0.1), 50);
  const Indices drawn = indices_of(sampler, sampled_epoch(100, 2));
  EXPECT_EQ(drawn, indices_of(sampler, sampled_epoch(100, 2)));
  EXPECT_NE(drawn, indices_of(sampler, sampled_epoch(100, 3)));
  EXPECT_NE(drawn, indices_of(sampler, sampled_epoch(100, 2, 7)));
  EXPECT_LT(std::set(drawn.begin(), drawn.end()).size(), 50U) << "with replacement";
}

TEST(WeightedSampler, TakesWeightsOfEverySize) {
  EXPECT_EQ(indices_of(WeightedSampler({3.0}, 3), sampled_epoch(1, 0)), Indices(3, 0));
  EXPECT_EQ(indices_of(WeightedSampler({0.0, 1e-300, 0.0}, 3), sampled_epoch(3, 0)), Indices(3, 1));
  EXPECT_EQ(indices_of(WeightedSampler({1e-300, 1e300, 0.0}, 9), sampled_epoch(3, 0)),
            Indices(9, 1));
}

TEST(WeightedSampler, RefusesWhatAreNoWeights) {
  const auto refused = [](const std::vector<double>& weights, std::int64_t places = 1) {
    return message_of<UserError>([&] { WeightedSampler(weights, places); });
  };
  constexpr double kInf = std::numeric_limits<double>::infinity();
  EXPECT_THAT(refused({1.0, -1.0}), HasSubstr("got -1 for sample 1"));
  EXPECT_THAT(refused({std::nan("")}), HasSubstr("got nan for sample 0"));
  EXPECT_THAT(refused({kInf}), HasSubstr("finite sum, got inf for sample 0"));
  EXPECT_THAT(refused({1e308, 1e308}), HasSubstr("for sample 1"));
  EXPECT_THAT(refused({0.0, 0.0}), HasSubstr("a weight above 0, got 2 weights without one"));
  EXPECT_THAT(refused({}), HasSubstr("got 0 weights"));
  EXPECT_THAT(refused({1.0}, 0), HasSubstr("samples_per_epoch of at least 1, got 0"));
  EXPECT_THAT(message_of<UserError>([] {
                WeightedSampler({1.0, 1.0}, 1).places(3);
              }),
              HasSubstr("each of the 3 samples, got 2 weights"));
}

TEST(SubsetSampler, TakesTheNamedSamples) {
  const Indices named = {7, 3, 3, 9, 0};
  EXPECT_EQ(indices_of(SubsetSampler(named, /*shuffle=*/false), sampled_epoch(10, 4)), named);
  const SubsetSampler shuffled(named);
  std::set<Indices> orders;
  for (std::int64_t epoch = 0; epoch < 10; ++epoch) {
    const Indices order = indices_of(shuffled, sampled_epoch(10, epoch));
    EXPECT_EQ(sorted(order), sorted(named));
    orders.insert(order);
  }
  EXPECT_GT(orders.size(), 3U) << "in another order in each epoch";
}

TEST(SubsetSampler, RefusesWhatTheDataSetDoesNotHave) {
  EXPECT_THAT(message_of<UserError>([] { SubsetSampler({}); }), HasSubstr("at least one index"));
  EXPECT_THAT(message_of<UserError>([] { SubsetSampler({1, -2}); }), HasSubstr("got -2"));
  EXPECT_THAT(message_of<UserError>([] {
                SubsetSampler({1, 10}).places(10);
              }),
              HasSubstr("below the number of samples, 10, got 10"));
}

TEST(Samplers, HaveFingerprintsThatTellThemApart) {
  const std::vector<Sampler> samplers = {
      SequentialSampler(),          ShuffledSampler(),          WeightedSampler({1, 2}, 2),
      WeightedSampler({1, 3}, 2),   WeightedSampler({1, 2}, 3), SubsetSampler({0, 1}),
      SubsetSampler({0, 1}, false), SubsetSampler({1, 0}),      SubsetSampler({0})};
  std::set<std::string> fingerprints;
  for (const Sampler& sampler : samplers) fingerprints.insert(sampler.fingerprint());
  EXPECT_EQ(fingerprints.size(), samplers.size());
  EXPECT_EQ(Sampler(WeightedSampler({1, 2}, 2)).fingerprint(), samplers[2].fingerprint());
}

TEST(Samplers, MayBeOfAnyClass) {
  struct EveryOther {
    std::int64_t places(std::int64_t samples) const { return samples / 2; }
    std::int64_t index_at(std::int64_t place, const SampledEpoch& epoch) const {
      return 2 * place + epoch.epoch % 2;
    }
    std::string fingerprint() const { return "every other"; }
  };
  const Sampler sampler = EveryOther();
  EXPECT_EQ(indices_of(sampler, sampled_epoch(6, 1)), (Indices{1, 3, 5}));
}

}  // namespace
}  // namespace halftone::samplers_test
