// SPDX-License-Identifier: Apache-2.0
#include "halftone/report/axis.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace halftone::axis_test {
namespace {

using testing::ElementsAre;

std::vector<std::string> labels(const Axis& axis) {
  std::vector<std::string> texts;
  for (const Tick& tick : axis.ticks()) texts.push_back(tick.label);
  return texts;
}

TEST(Axis, TicksAreRoundAndReachOverTheBounds) {
  EXPECT_THAT(labels(Axis::linear(0.3, 9.2, 5)), ElementsAre("0", "2", "4", "6", "8", "10"));
  EXPECT_THAT(labels(Axis::linear(6.9, 8.9, 5)),
              ElementsAre("6.5", "7.0", "7.5", "8.0", "8.5", "9.0"));
  EXPECT_THAT(labels(Axis::linear(-3, 3, 4)), ElementsAre("-4", "-2", "0", "2", "4"));
  EXPECT_THAT(labels(Axis::linear(0, 5.5e-4, 4)), ElementsAre("0", "2e-4", "4e-4", "6e-4"));
  EXPECT_THAT(labels(Axis::linear(0, 1.3e-4, 4)), ElementsAre("0", "5e-5", "1e-4", "1.5e-4"));
  EXPECT_THAT(labels(Axis::linear(0, 14000, 4)), ElementsAre("0", "5k", "10k", "15k"));
  EXPECT_THAT(labels(Axis::linear(0, 3e6, 4)), ElementsAre("0", "1M", "2M", "3M"));
  EXPECT_THAT(labels(Axis::linear(0, 2e20, 2)), ElementsAre("0", "1e20", "2e20"));
}

TEST(Axis, AValueStandsWhereItsShareOfTheAxisSays) {
  const Axis linear = Axis::linear(0, 10, 5);
  EXPECT_DOUBLE_EQ(linear.share(0), 0);
  EXPECT_DOUBLE_EQ(linear.share(2.5), 0.25);
  EXPECT_DOUBLE_EQ(linear.share(10), 1);
  const Axis log = Axis::log10(0.02, 700);  // from 10^-2 to 10^3
  EXPECT_NEAR(log.share(1), 2.0 / 5, 1e-12);
  EXPECT_NEAR(log.share(std::sqrt(10.0)), 2.5 / 5, 1e-12);
  EXPECT_TRUE(std::isnan(log.share(0)));
  EXPECT_TRUE(std::isnan(log.share(-1)));
  EXPECT_TRUE(std::isnan(linear.share(std::nan(""))));
}

TEST(Axis, LogarithmsHaveTicksAtPowers) {
  EXPECT_THAT(labels(Axis::log10(0.02, 700)), ElementsAre("0.01", "0.1", "1", "10", "100", "1000"));
  EXPECT_THAT(labels(Axis::log10(1e-5, 1e5)),
              ElementsAre("10⁻⁵", "0.001", "0.1", "10", "1000", "10⁵"));
  EXPECT_THAT(labels(Axis::log2(4096, 65536, 5)), ElementsAre("2¹²", "2¹³", "2¹⁴", "2¹⁵", "2¹⁶"));
  EXPECT_THAT(labels(Axis::log2(1, std::exp2(30), 5)),
              ElementsAre("2⁰", "2⁶", "2¹²", "2¹⁸", "2²⁴", "2³⁰"));
}

TEST(Axis, OneValueGetsRoomAroundIt) {
  EXPECT_DOUBLE_EQ(Axis::steps(7, 7, 5).share(7), 0.5);
  EXPECT_THAT(labels(Axis::steps(7, 7, 5)), ElementsAre("7"));
  EXPECT_DOUBLE_EQ(Axis::log2(1024, 1024, 5).share(1024), 0.5);
  for (const double value : {0.0, 5.0, -3.0, 1e100, 1e-100, 1e15 + 0.125}) {
    const Axis axis = Axis::linear(value, value, 4);
    EXPECT_GT(axis.share(value), 0.2) << value;
    EXPECT_LT(axis.share(value), 0.8) << value;
    EXPECT_GE(axis.ticks().size(), 2U) << value;
    EXPECT_LE(axis.ticks().size(), 8U) << value;
  }
}

TEST(Axis, StepsAreWholeAndInside) {
  EXPECT_THAT(labels(Axis::steps(1, 3, 10)), ElementsAre("1", "2", "3"));
  EXPECT_THAT(labels(Axis::steps(1, 200, 4)), ElementsAre("50", "100", "150", "200"));
  EXPECT_DOUBLE_EQ(Axis::steps(1, 201, 4).share(101), 0.5);
}

TEST(Axis, ExtremeBoundsGiveFewTicks) {
  for (const double low : {-1e100, -1.0, 0.0, 1e-100, 1.0}) {
    for (const double high : {1e-99, 2.0, 9007199254740992.0, 1e100}) {
      if (high <= low) continue;
      const std::size_t ticks = Axis::linear(low, high, 5).ticks().size();
      EXPECT_TRUE(ticks >= 2 && ticks <= 9) << low << ' ' << high << ": " << ticks;
      if (low > 0) {
        EXPECT_LE(Axis::log10(low, high).ticks().size(), 9U);
      }
    }
  }
}

TEST(Axis, NumbersAreShort) {
  EXPECT_EQ(short_number(0), "0");
  EXPECT_EQ(short_number(4.2571), "4.257");
  EXPECT_EQ(short_number(-12.5), "-12.5");
  EXPECT_EQ(short_number(0.0125), "0.0125");
  EXPECT_EQ(short_number(9999.7), "10k");
  EXPECT_EQ(short_number(13812), "13.8k");
  EXPECT_EQ(short_number(999700), "1M");
  EXPECT_EQ(short_number(2.05e9), "2.05B");
  EXPECT_EQ(short_number(3e-5), "3e-5");
  EXPECT_EQ(short_number(1.25e30), "1.25e30");
  EXPECT_EQ(power_of_two(65536), "2¹⁶");
  EXPECT_EQ(power_of_two(0.5), "2⁻¹");
  EXPECT_EQ(power_of_two(128.5), "128.5");
}

}  // namespace
}  // namespace halftone::axis_test
