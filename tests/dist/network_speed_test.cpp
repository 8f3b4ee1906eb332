// SPDX-License-Identifier: Apache-2.0
#include "halftone/dist/network_speed.h"

#include <gtest/gtest.h>

#include <cmath>

#include "halftone/dist/join_process_group.h"
#include "halftone/dist/network_speed_impl.h"
#include "support/processes.h"

namespace halftone::network_speed_test {
namespace {

TEST(NetworkSpeed, IsFittedToMessagesOfTwoSizes) {
  constexpr double kLatency = 0.002, kBytesPerSecond = 4e8;
  for (const std::int64_t processes : {2, 3, 8}) {
    const auto seconds = [&](std::int64_t bytes) {
      return static_cast<double>(processes - 1) *
             (kLatency + static_cast<double>(bytes - kSmallMessage) / kBytesPerSecond);
    };
    const NetworkSpeed speed =
        fitted_speed(processes, seconds(kSmallMessage), seconds(kLargeMessage));
    EXPECT_NEAR(speed.latency_s, kLatency, 1e-12);
    EXPECT_NEAR(speed.bytes_per_s, kBytesPerSecond, 1);
  }
}

void expect_measured(const NetworkSpeed& speed) {
  EXPECT_GT(speed.latency_s, 0);
  EXPECT_GT(speed.bytes_per_s, 0);
  EXPECT_TRUE(std::isfinite(speed.bytes_per_s));
}

TEST(NetworkSpeed, IsThatOfAGroup) {
  test::in_processes(2, [] {
    const auto group = join_process_group(find_process_place());
    expect_measured(network_speed(*group));
  });
}

TEST(LoopbackSpeed, IsMeasuredAgainAndAgain) {
  expect_measured(loopback_speed());
  expect_measured(loopback_speed());
}

}  // namespace
}  // namespace halftone::network_speed_test
