// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "halftone/probe/probe_steps_impl.h"

namespace halftone::probe_steps_test {
namespace {

using Turn = ProbeSteps::Turn;
constexpr ProbeSteps::Operation kForward{.has_gradients = true, .records = true};
constexpr ProbeSteps::Operation kData{.has_gradients = true, .records = false};
constexpr ProbeSteps::Operation kUpdate{};

TEST(StepSampler, TakesEveryNthFromTheFirst) {
  const StepSampler sampler(3);
  EXPECT_TRUE(sampler.wants(1, 0));
  EXPECT_FALSE(sampler.wants(2, 0));
  EXPECT_FALSE(sampler.wants(3, 0));
  EXPECT_TRUE(sampler.wants(4, 0));
  EXPECT_FALSE(StepSampler().wants(1, 0));
}

TEST(StepSampler, KeepsToAShareOfTheTime) {
  StepSampler sampler(0);
  EXPECT_TRUE(sampler.wants(1, 0));
  sampler.spent(1.0);
  EXPECT_FALSE(sampler.wants(2, 50));
  double watched = 1.0;
  int steps = 1;
  for (int second = 2; second < 2000; ++second) {
    if (!sampler.wants(second, second)) continue;
    sampler.spent(1.0);
    watched += 1.0;
    ++steps;
  }
  EXPECT_GT(steps, 15);
  EXPECT_LT(watched / 2000, 0.02);
}

TEST(ProbeSteps, EndsAStepWhereAutogradRecordsAgain) {
  ProbeSteps steps(StepSampler(1), StepSampler(1));
  EXPECT_EQ(steps.operation_begins(kData), Turn::kBegins);
  EXPECT_EQ(steps.operation_begins(kForward), Turn::kSame);
  EXPECT_FALSE(steps.backward_begins());
  steps.note_backward();
  EXPECT_EQ(steps.operation_begins(kUpdate), Turn::kSame);
  EXPECT_EQ(steps.operation_begins(kData), Turn::kSame);
  EXPECT_EQ(steps.operation_begins(kForward), Turn::kEnds);
  EXPECT_TRUE(steps.finish(0, 0));
  EXPECT_EQ(steps.operation_begins(kForward), Turn::kBegins);
  EXPECT_EQ(steps.step().number, 2);
  EXPECT_EQ(steps.steps(), 1);  // the second one has no backward pass yet
}

TEST(ProbeSteps, WatchesEveryThirdStep) {
  ProbeSteps steps(StepSampler(3), StepSampler());
  std::vector<std::int64_t> watched;
  bool observed = true;
  for (int step = 1; step <= 9; ++step) {
    for (const auto& operation : {kData, kForward, kForward}) {
      if (!observed) continue;
      Turn turn = steps.operation_begins(operation);
      if (turn == Turn::kEnds) {
        observed = steps.finish(0, 0);
        if (observed) turn = steps.operation_begins(operation);
      }
      if (turn == Turn::kBegins) watched.push_back(steps.step().number);
    }
    if (steps.backward_begins()) observed = true;
    steps.note_backward();
    if (observed) {
      EXPECT_NE(steps.operation_begins(kUpdate), Turn::kBegins);
    }
  }
  EXPECT_EQ(watched, (std::vector<std::int64_t>{1, 4, 7}));
  EXPECT_EQ(steps.steps(), 9);
  EXPECT_EQ(steps.searched_steps(), 3);
}

TEST(ProbeSteps, CountsOperationsWhereNoBackwardPassComes) {
  ProbeSteps steps(StepSampler(2), StepSampler());
  std::int64_t operations = 0;
  while (steps.operation_begins(kUpdate) != Turn::kEnds) ++operations;
  EXPECT_EQ(operations, ProbeSteps::kOperations);
  EXPECT_FALSE(steps.finish(0, 0));
  EXPECT_EQ(steps.operation_begins(kUpdate), Turn::kPasses);
  std::int64_t passed = 0;
  while (!steps.operations_passed(1024)) passed += 1024;
  EXPECT_LE(passed, ProbeSteps::kOperations);
  EXPECT_GE(passed + 1024, ProbeSteps::kOperations);
  EXPECT_EQ(steps.operation_begins(kUpdate), Turn::kBegins);
  EXPECT_EQ(steps.step().number, 3);
}

TEST(ProbeSteps, SearchesNoMoreOnceItHasFound) {
  ProbeSteps steps(StepSampler(1), StepSampler());
  steps.operation_begins(kForward);
  steps.stop_search();
  EXPECT_FALSE(steps.step().is_watched());
  steps.backward_begins();
  EXPECT_EQ(steps.operation_begins(kForward), Turn::kEnds);
  EXPECT_FALSE(steps.finish(0, 0));
}

}  // namespace
}  // namespace halftone::probe_steps_test
