// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/training_length.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "halftone/core/error.h"
#include "support/message_of.h"

namespace halftone::training_length_test {
namespace {

using test::message_of;
using testing::HasSubstr;

/// What the loop does with a TrainingLength: the rates of all updates of a run.
class ScheduledRun {
 public:
  ScheduledRun(const RunLimits& limits, std::int64_t batches, std::int64_t accumulate)
      : batches_(batches), accumulate_(accumulate), length_(limits, batches, accumulate) {}

  std::vector<double> rates(const LrScheduleOptions& schedule) {
    std::vector<double> found;
    while (!length_.finished(counters_)) {
      const std::int64_t group = std::min(accumulate_, batches_ - counters_.micro_step % batches_);
      found.push_back(length_.learning_rate(schedule, counters_, group));
      ++counters_.step;
      counters_.micro_step += group;
      counters_.epochs = counters_.micro_step / batches_;
      counters_.schedule_step += length_.schedule_steps(group);
      ++counters_.updates;
    }
    return found;
  }
  const RunCounters& counters() const { return counters_; }

 private:
  std::int64_t batches_;
  std::int64_t accumulate_;
  TrainingLength length_;
  RunCounters counters_;
};

constexpr LrScheduleOptions kCosine{.kind = Schedule::kCosine, .lr = 1e-3};

TEST(TrainingLength, TheSameUpdatesHaveTheSameRatesHoweverTheLimitWasGiven) {
  for (const std::int64_t batches : {1, 3, 4, 5, 8, 11}) {
    for (const std::int64_t accumulate : {1, 2, 4, 7}) {
      const std::int64_t per_epoch = (batches + accumulate - 1) / accumulate;
      for (const Schedule kind : {Schedule::kMinimind, Schedule::kCosine, Schedule::kLinear,
                                  Schedule::kConstant, Schedule::kOneCycle}) {
        for (const double warmup : {0.0, 3.0}) {
          SCOPED_TRACE(testing::Message() << batches << " batches, accumulate " << accumulate
                                          << ", " << schedule_name(kind) << ", warmup " << warmup);
          const LrScheduleOptions schedule{.kind = kind, .lr = 1e-3, .warmup = warmup};
          const auto by_epochs =
              ScheduledRun({.max_epochs = 5}, batches, accumulate).rates(schedule);
          const auto by_steps =
              ScheduledRun({.max_steps = 5 * per_epoch}, batches, accumulate).rates(schedule);
          const auto by_both =
              ScheduledRun({.max_steps = 5 * per_epoch, .max_epochs = 9}, batches, accumulate)
                  .rates(schedule);
          EXPECT_EQ(by_steps, by_epochs);
          EXPECT_EQ(by_both, by_epochs);
        }
      }
    }
  }
}

TEST(TrainingLength, AScheduleReachesItsEnd) {
  // 10 updates of 4 and 1 batches in turn, 25 in all; the last is at batch 24.
  const auto ragged = ScheduledRun({.max_steps = 10}, 5, 4).rates(kCosine);
  EXPECT_EQ(ragged.size(), 10);
  EXPECT_DOUBLE_EQ(ragged.front(), learning_rate(kCosine, 3, 25));
  EXPECT_DOUBLE_EQ(ragged.back(), learning_rate(kCosine, 24, 25));
  EXPECT_LT(ragged.back(), 1.04e-4);

  // Not all epochs whole: 7 updates are 3 epochs and 4 batches.
  EXPECT_DOUBLE_EQ(ScheduledRun({.max_steps = 7}, 5, 4).rates(kCosine).back(),
                   learning_rate(kCosine, 18, 19));
  const LrScheduleOptions one_cycle{.kind = Schedule::kOneCycle, .lr = 1.0};
  EXPECT_DOUBLE_EQ(ScheduledRun({.max_steps = 10}, 5, 4).rates(one_cycle).back(), 1.0 / 25 / 1e4);
}

TEST(TrainingLength, OfAnUnknownEpochCountsWholeUpdates) {
  TrainingLength length({.max_steps = 10}, std::nullopt, 4);
  RunCounters counters;
  std::vector<double> rates;
  for (const std::int64_t group : {4, 1, 4, 1, 4, 1, 4, 1, 4, 1}) {
    rates.push_back(length.learning_rate(kCosine, counters, group));
    counters.schedule_step += length.schedule_steps(group);
  }
  for (std::size_t i = 0; i < rates.size(); ++i)
    EXPECT_DOUBLE_EQ(rates[i], learning_rate(kCosine, static_cast<double>(4 * i + 3), 40)) << i;
  EXPECT_LT(rates.back(), 1.1e-4);

  const TrainingLength by_epochs({.max_epochs = 2}, std::nullopt, 4);
  EXPECT_EQ(by_epochs.total_steps(), std::nullopt);
  EXPECT_THAT(message_of<UserError>([&] { by_epochs.learning_rate(kCosine, {}, 4); }),
              HasSubstr("how many batches an epoch has"));
  EXPECT_EQ(by_epochs.learning_rate({.kind = Schedule::kConstant, .lr = 0.5}, {}, 4), 0.5);
}

TEST(TrainingLength, WarmupCountsOptimizerSteps) {
  const LrScheduleOptions constant{.kind = Schedule::kConstant, .lr = 1.0, .warmup = 3};
  // Of 5 batches, accumulate 4: the third update ends at batch 9, as the warm-up does.
  const auto ragged = ScheduledRun({.max_steps = 6}, 5, 4).rates(constant);
  EXPECT_DOUBLE_EQ(ragged[0], 4.0 / 10);
  EXPECT_DOUBLE_EQ(ragged[1], 5.0 / 10);
  EXPECT_DOUBLE_EQ(ragged[2], 9.0 / 10);
  EXPECT_EQ(ragged[3], 1.0);
  const auto even = ScheduledRun({.max_steps = 6}, 8, 1).rates(constant);
  EXPECT_DOUBLE_EQ(even[0], 0.25);
  EXPECT_DOUBLE_EQ(even[2], 0.75);
  EXPECT_EQ(even[3], 1.0);
}

TEST(TrainingLength, OfTimeAloneFollowsTheTime) {
  const TrainingLength length({.max_time = 100.0}, 5, 4);
  EXPECT_EQ(length.learning_rate(kCosine, {.step = 7, .seconds = 50.0}, 4),
            learning_rate(kCosine, 50, 100));
  LrScheduleOptions warm = kCosine;
  warm.warmup = 3;
  EXPECT_EQ(length.learning_rate(warm, {.step = 1}, 4), 0.5 * kCosine.lr);
  EXPECT_FALSE(length.finished({.step = 1000, .epochs = 50, .seconds = 99.0}));
  EXPECT_TRUE(length.finished({.seconds = 100.0}));
  EXPECT_EQ(length.total_steps(), std::nullopt);
  // With another limit the time only ends the run: the rates stay those of the steps.
  const TrainingLength both({.max_steps = 10, .max_time = 100.0}, 5, 4);
  EXPECT_EQ(both.learning_rate(kCosine, {.seconds = 50.0}, 4), learning_rate(kCosine, 3, 25));
}

TEST(TrainingLength, EndsAtTheFirstLimit) {
  const TrainingLength none({}, 5, 1);
  EXPECT_FALSE(none.finished({.step = 4, .micro_step = 4}));
  EXPECT_TRUE(none.finished({.step = 5, .micro_step = 5, .epochs = 1})) << "one epoch";
  const TrainingLength both({.max_steps = 7, .max_epochs = 2}, 5, 2);
  EXPECT_FALSE(both.finished({.step = 5, .epochs = 1}));
  EXPECT_TRUE(both.finished({.step = 6, .epochs = 2}));
  EXPECT_TRUE(both.finished({.step = 7, .epochs = 1}));
  EXPECT_EQ(both.total_steps(), 6);
  EXPECT_EQ(TrainingLength({.max_steps = 4, .max_epochs = 2}, 5, 2).total_steps(), 4);
  EXPECT_THROW(TrainingLength({}, 0, 1), c10::Error);
  EXPECT_THROW(TrainingLength({}, 5, 0), c10::Error);
}

TEST(TrainingLength, ProgressIsTheLimitThatIsNearest) {
  const TrainingLength length({.max_steps = 10, .max_epochs = 4, .max_time = 100.0}, 5, 2);
  EXPECT_DOUBLE_EQ(length.progress({.step = 5, .micro_step = 2, .seconds = 10}), 0.5);
  EXPECT_DOUBLE_EQ(length.progress({.step = 1, .micro_step = 12, .seconds = 10}), 0.6);
  EXPECT_DOUBLE_EQ(length.progress({.step = 1, .micro_step = 2, .seconds = 70}), 0.7);
  EXPECT_DOUBLE_EQ(length.progress({.step = 20}), 1.0);
  EXPECT_DOUBLE_EQ(TrainingLength({.max_epochs = 4}, std::nullopt, 1).progress({.epochs = 3}),
                   0.75);
}

TEST(TrainingLength, OfTheLargestLimitsIsStillARun) {
  const TrainingLength endless({.max_steps = std::numeric_limits<std::int64_t>::max()}, 5, 4);
  EXPECT_EQ(endless.learning_rate(kCosine, {}, 4), kCosine.lr);
}

}  // namespace
}  // namespace halftone::training_length_test
