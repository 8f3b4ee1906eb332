// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "halftone/train/sample_pace_impl.h"

namespace halftone::sample_pace_test {
namespace {

TEST(SamplePace, TakesTheStepsThatItWasTold) {
  SamplePace pace(3);
  for (const std::int64_t step : {1, 2, 4, 5, 7}) EXPECT_FALSE(pace.is_due(step)) << step;
  for (const std::int64_t step : {3, 6, 9}) EXPECT_TRUE(pace.is_due(step)) << step;
  pace.note_step(1.0);
  pace.note_sample(5.0);
  pace.note_sample(5.0);
  EXPECT_EQ(pace.every(), 3);
}

// The share of the time that samples take once the interval has settled.
double share_of(double sample_s, double step_s) {
  SamplePace pace(0);
  double sampled = 0.0, all = 0.0;
  for (std::int64_t step = 1; step <= 40'000; ++step) {
    all += step > 20'000 ? step_s : 0.0;
    if (!pace.is_due(step)) {
      pace.note_step(step_s);
      continue;
    }
    pace.note_sample(sample_s);
    if (step > 20'000) sampled += sample_s;
  }
  return sampled / (all + sampled);
}

TEST(SamplePace, StaysBelowItsShareOfTheTime) {
  for (const double sample_s : {1e-5, 1e-3, 0.0149, 0.02, 0.1, 3.0}) {
    EXPECT_LE(share_of(sample_s, 1.0), SamplePace::kShare * 1.001) << sample_s;
    if (sample_s >= 0.02) {
      EXPECT_GE(share_of(sample_s, 1.0), SamplePace::kShare / 2.2) << sample_s;
    }
  }
}

TEST(SamplePace, DoesNotGoByTheFirstSampleOfAProcess) {
  SamplePace pace(0);
  EXPECT_TRUE(pace.is_due(1));
  pace.note_sample(100.0);
  pace.note_step(1.0);
  EXPECT_EQ(pace.every(), 4);
  pace.note_sample(0.001);
  EXPECT_EQ(pace.every(), 1);
}

TEST(SamplePace, GoesOnWhereItWas) {
  SamplePace pace(0);
  pace.note_sample(0.0);
  pace.note_step(1.0);
  pace.note_sample(0.2);
  EXPECT_EQ(pace.every(), 16);
  SamplePace resumed(0);
  resumed.load_state_dict(pace.state_dict());
  EXPECT_EQ(resumed.every(), 16);
  EXPECT_TRUE(resumed.is_due(32));
  EXPECT_FALSE(resumed.is_due(24));
}

}  // namespace
}  // namespace halftone::sample_pace_test
