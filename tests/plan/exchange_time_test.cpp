// SPDX-License-Identifier: Apache-2.0
// Seconds of exchanges against counts made by hand.
#include "halftone/plan/exchange_time.h"

#include <gtest/gtest.h>

namespace halftone::exchange_time_test {
namespace {

// A message takes 1 ms and 1 us a byte; copying and adding half a microsecond a byte.
ExchangeSpeed speed(bool is_hidden = true) {
  return {.network = {.latency_s = 0.001, .bytes_per_s = 1e6},
          .sum_s = 0.5e-6,
          .gather_s = 0.25e-6,
          .is_hidden = is_hidden};
}

/// 4 MB of gradients in four buckets, the last of 1 MB, and 8 MB of weights.
AdamWShareBytes bytes() {
  return {.buckets = 4,
          .gradients_in_transit = 4'000'000,
          .weights_in_transit = 8'000'000,
          .last_bucket = 1'000'000};
}

// Of four processes: a collective operation is three messages, and three quarters of the bytes.
constexpr double kOneWay = 4 * 3 * 0.001 + 3, kLastOneWay = 3 * 0.001 + 0.75;
constexpr double kSums = 2, kLastSum = 0.5;
constexpr double kAgreement = 3 * 0.001;
constexpr double kWeights = 4 * 3 * 0.001 + 6 + 2;

TEST(ExchangeSeconds, AreNoneOfOneProcess) {
  const ExchangeSeconds one = exchange_seconds({}, {}, {}, {});
  EXPECT_EQ(one.all, 0);
  EXPECT_EQ(one.exposed, 0);
}

TEST(ExchangeSeconds, AreTwoWaysOfAllGradients) {
  const ExchangeSeconds own =
      exchange_seconds({.processes = 4}, bytes(), speed(/*is_hidden=*/false), {.seconds = 100});
  EXPECT_NEAR(own.all, 2 * kOneWay + kSums + 6 * kAgreement, 1e-9);
  EXPECT_NEAR(own.exposed, own.all, 1e-9);
}

TEST(ExchangeSeconds, GrowWithProcessesByTheirMessages) {
  const auto all = [](std::int64_t processes) {
    return exchange_seconds({.processes = processes}, bytes(), speed(), {}).all;
  };
  EXPECT_NEAR(all(2), 2 * (4 * 0.001 + 2) + kSums + 6 * 0.001, 1e-9);
  EXPECT_NEAR(all(8), 2 * (4 * 7 * 0.001 + 3.5) + kSums + 6 * 7 * 0.001, 1e-9);
}

TEST(ExchangeSeconds, AreHiddenFromTheFirstBucketToTheLast) {
  const AdamWShare share{.processes = 4};
  // Three quarters of a backward pass come after the first of four buckets.
  const ExchangeSeconds partly = exchange_seconds(share, bytes(), speed(), {.seconds = 2});
  EXPECT_NEAR(partly.all - partly.exposed, 1.5, 1e-9);
  const ExchangeSeconds long_pass = exchange_seconds(share, bytes(), speed(), {.seconds = 100});
  EXPECT_EQ(long_pass.all, partly.all);
  EXPECT_NEAR(long_pass.exposed, 2 * kLastOneWay + kLastSum + 6 * kAgreement, 1e-9);
}

TEST(ExchangeSeconds, HaveNewWeightsBehindTheUpdate) {
  const ExchangeSeconds states = exchange_seconds({.processes = 4, .states = true}, bytes(),
                                                  speed(), {.seconds = 100, .micro_batches = 3});
  EXPECT_NEAR(states.all, 2 * kOneWay + kSums + kWeights + 8 * kAgreement, 1e-9);
  EXPECT_NEAR(states.exposed, 2 * kLastOneWay + kLastSum + kWeights + 8 * kAgreement, 1e-9);
}

TEST(ExchangeSeconds, AreOneWayInEachMicroBatchWhereGradientsAreShared) {
  const ExchangeSeconds gradients =
      exchange_seconds({.processes = 4, .states = true, .gradients = true}, bytes(), speed(),
                       {.seconds = 100, .micro_batches = 3});
  EXPECT_NEAR(gradients.all, 3 * (kOneWay + kSums) + kWeights + (6 + 3 * 2) * kAgreement, 1e-9);
  EXPECT_NEAR(gradients.exposed, 3 * (kLastOneWay + kLastSum) + kWeights + (6 + 3 * 2) * kAgreement,
              1e-9);
}

TEST(ExchangeSeconds, HaveSharedWeightsTwiceInEachMicroBatch) {
  const AdamWShare share{.processes = 4, .states = true, .gradients = true, .weights = true};
  const BackwardPasses passes{.seconds = 4, .micro_batches = 3};
  const ExchangeSeconds weights = exchange_seconds(share, bytes(), speed(), passes);
  const double traffic = kOneWay + kSums + 2 * kWeights, agreed = (6 + 3 * 2) * kAgreement;
  EXPECT_NEAR(weights.all, 3 * traffic + agreed, 1e-9);
  EXPECT_NEAR(weights.exposed, 3 * (traffic - 3) + agreed, 1e-9);
  const ExchangeSeconds hidden = exchange_seconds(share, bytes(), speed(), {.seconds = 100});
  EXPECT_NEAR(hidden.exposed, kLastOneWay + kLastSum + 2 * kWeights / 4 + 8 * kAgreement, 1e-9);
}

// A quarter of the weights, a bucket, belongs to no block.
TEST(ExchangeSeconds, HaveSharedWeightsOfNoBlockBehindTheUpdate) {
  const AdamWShare share{.processes = 4, .states = true, .gradients = true, .weights = true};
  AdamWShareBytes own = bytes();
  own.weights_in_transit = 6'000'000;
  own.weights_behind = 2'000'000;
  const ExchangeSeconds weights = exchange_seconds(share, own, speed(), {.seconds = 4});
  const double behind = kWeights / 4 + 8 * kAgreement;
  EXPECT_NEAR(weights.all, kOneWay + kSums + 2 * 3 * kWeights / 4 + behind, 1e-9);
  EXPECT_NEAR(weights.all - weights.exposed, 3, 1e-9);
}

TEST(ExchangeSpeed, SharesTheCoresOfAHost) {
  EXPECT_EQ((HostShare{.processes = 1, .threads = 3, .cores = 2}).busy_cores(), 3);
  EXPECT_EQ((HostShare{.processes = 2, .threads = 1, .cores = 8}).busy_cores(), 2);
  EXPECT_EQ((HostShare{.processes = 8, .threads = 1, .cores = 2}).busy_cores(), 2);
}

TEST(ExchangeSpeed, IsHiddenWhereItsThreadsHaveCoresOfTheirOwn) {
  EXPECT_TRUE((HostShare{.processes = 2, .threads = 1, .cores = 4}).has_spare_cores());
  EXPECT_FALSE((HostShare{.processes = 2, .threads = 1, .cores = 3}).has_spare_cores());
  EXPECT_FALSE((HostShare{.processes = 1, .threads = 2, .cores = 2}).has_spare_cores());
  const NetworkSpeed given{.latency_s = 1e-5, .bytes_per_s = 1e9};
  const AdamWShare share{.processes = 2, .states = true};
  const ExchangeSpeed far =
      measure_exchange_speed(share, {.processes = 1, .threads = 2, .cores = 2}, given);
  EXPECT_TRUE(far.is_hidden);
  EXPECT_EQ(far.network.latency_s, given.latency_s);
  EXPECT_EQ(far.network.bytes_per_s, given.bytes_per_s);
  EXPECT_GT(far.sum_s, 0);
  EXPECT_GT(far.gather_s, 0);
}

}  // namespace
}  // namespace halftone::exchange_time_test
