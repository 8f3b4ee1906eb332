// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "halftone/probe/fault_judge_impl.h"

namespace halftone::fault_judge_test {
namespace {

using Kind = NonFiniteOrigin::Kind;

FaultJudge::Label label(std::int64_t order, Kind kind, NonFiniteCause cause) {
  auto made = std::make_shared<NonFiniteLabel>();
  made->order = order;
  made->origin.kind = kind;
  made->origin.diagnosis.cause = cause;
  return made;
}

FaultJudge::Label overflow(std::int64_t order = 1) {
  return label(order, Kind::kBackward, NonFiniteCause::kOverflow);
}

TEST(FaultJudge, TakesABadLossForAFault) {
  FaultJudge judge;
  const auto loss = label(3, Kind::kForward, NonFiniteCause::kOverflow);
  judge.loss_is_bad(loss);
  judge.loss_is_bad(label(1, Kind::kForward, NonFiniteCause::kOverflow));
  EXPECT_EQ(judge.verdict(), loss);  // the first one stands
}

TEST(FaultJudge, ChoosesTheFirstGradientOfAPass) {
  FaultJudge judge;
  const auto second = label(5, Kind::kBackward, NonFiniteCause::kDivisionByZero);
  const auto first = label(2, Kind::kBackward, NonFiniteCause::kInvalid);
  judge.gradient_is_bad(second);
  judge.gradient_is_bad(first);
  EXPECT_EQ(judge.verdict(), nullptr);
  judge.pass_is_over();
  EXPECT_EQ(judge.verdict(), first);
}

TEST(FaultJudge, ExcusesAnOverflowThatAScalerLooksFor) {
  FaultJudge judge;
  for (int step = 0; step < 20; ++step) {
    const auto gradient = overflow(step);
    judge.gradient_is_bad(gradient);
    judge.pass_is_over();
    judge.program_checks(gradient);
    judge.program_checks(gradient);  // of another parameter
  }
  judge.pass_is_over();
  judge.process_ends();
  EXPECT_EQ(judge.verdict(), nullptr);
  EXPECT_EQ(judge.excused_passes(), 20);
  EXPECT_EQ(judge.excused()->order, 0);
}

TEST(FaultJudge, DoesNotExcuseWhatNoScaleCanMend) {
  FaultJudge judge;
  const auto gradient = label(1, Kind::kBackward, NonFiniteCause::kDivisionByZero);
  judge.gradient_is_bad(gradient);
  judge.pass_is_over();
  judge.program_checks(gradient);
  EXPECT_EQ(judge.verdict(), gradient);
}

TEST(FaultJudge, DoesNotExcuseOverflowsWithoutEnd) {
  FaultJudge judge;
  for (int step = 0; step < 40 && !judge.verdict(); ++step) {
    judge.gradient_is_bad(overflow(step));
    judge.pass_is_over();
    judge.program_checks(overflow(step));
  }
  EXPECT_NE(judge.verdict(), nullptr);
  EXPECT_GT(judge.excused_passes(), 17);  // GradScaler's 65536 is below 1 by then
}

TEST(FaultJudge, TakesAnOverflowForAFaultThatNobodyLooksAt) {
  FaultJudge judge;
  const auto first = overflow(1);
  judge.gradient_is_bad(first);
  judge.pass_is_over();
  judge.gradient_is_bad(overflow(2));
  judge.pass_is_over();
  EXPECT_EQ(judge.verdict(), nullptr);
  judge.process_ends();
  EXPECT_EQ(judge.verdict(), first);
}

TEST(FaultJudge, TakesAWeightForAFaultAlsoWhereTheProgramLooked) {
  FaultJudge judge;
  const auto gradient = overflow();
  judge.gradient_is_bad(gradient);
  judge.pass_is_over();
  judge.program_checks(gradient);
  judge.weight_is_bad(gradient);
  EXPECT_EQ(judge.verdict(), gradient);
}

TEST(FaultJudge, ReadsLossesAndNoMasks) {
  FaultJudge judge;
  auto mask = std::make_shared<NonFiniteLabel>();
  mask->is_mask = true;
  judge.program_reads(mask);
  judge.program_reads(overflow());  // of a gradient: its norm is shown
  EXPECT_EQ(judge.verdict(), nullptr);
  judge.program_reads(label(4, Kind::kForward, NonFiniteCause::kLogOfZero));
  EXPECT_EQ(judge.verdict()->order, 4);
}

}  // namespace
}  // namespace halftone::fault_judge_test
