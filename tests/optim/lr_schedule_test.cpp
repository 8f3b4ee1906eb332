// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/lr_schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "halftone/core/error.h"

namespace halftone {
namespace {

TEST(LrSchedule, MinimindIsItsGetLr) {
  const LrScheduleOptions options{.kind = Schedule::kMinimind, .lr = 5e-4};
  for (int s = 0; s < 100; ++s)
    EXPECT_DOUBLE_EQ(learning_rate(options, s, 100),
                     5e-4 / 10 + 0.5 * 5e-4 * (1 + std::cos(std::numbers::pi * s / 100)));
  EXPECT_DOUBLE_EQ(learning_rate(options, 0, 100), 5.5e-4);
}

TEST(LrSchedule, EndsAreWhereTheyAreDocumented) {
  const auto at = [](Schedule kind, double p) {
    return learning_rate({.kind = kind, .lr = 1.0}, p, 8);
  };
  EXPECT_DOUBLE_EQ(at(Schedule::kCosine, 0), 1.0);
  EXPECT_DOUBLE_EQ(at(Schedule::kCosine, 4), 0.55);
  EXPECT_DOUBLE_EQ(at(Schedule::kCosine, 8), 0.1);
  EXPECT_DOUBLE_EQ(at(Schedule::kMinimind, 8), 0.1);
  EXPECT_DOUBLE_EQ(at(Schedule::kLinear, 0), 1.0);
  EXPECT_DOUBLE_EQ(at(Schedule::kLinear, 6), 0.25);
  EXPECT_DOUBLE_EQ(at(Schedule::kLinear, 8), 0.0);
  EXPECT_DOUBLE_EQ(at(Schedule::kConstant, 5), 1.0);
  EXPECT_DOUBLE_EQ(at(Schedule::kCosine, 800), 0.1);
}

TEST(LrSchedule, WarmupRisesToTheSchedule) {
  const LrScheduleOptions options{.kind = Schedule::kConstant, .lr = 1.0, .warmup = 4};
  const std::vector<double> expected = {0.2, 0.4, 0.6, 0.8, 1.0, 1.0};
  for (std::size_t s = 0; s < expected.size(); ++s)
    EXPECT_DOUBLE_EQ(learning_rate(options, static_cast<double>(s), 10), expected[s]);
}

TEST(LrSchedule, RefusesImpossibleRuns) {
  EXPECT_THROW(learning_rate({}, 0, 0), c10::Error);
  EXPECT_THROW(learning_rate({}, -1, 5), c10::Error);
  EXPECT_THROW(learning_rate({.warmup = -1}, 0, 5), c10::Error);
}

TEST(LrSchedule, NamesRoundTripAndSlipsAreMended) {
  for (const std::string& name : schedule_names())
    EXPECT_EQ(schedule_name(parse_schedule(name)), name);
  try {
    parse_schedule("cosin");
    FAIL() << "accepted";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean 'cosine'"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("minimind, cosine, linear, constant"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace halftone
