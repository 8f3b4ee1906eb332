// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/progress_bar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

namespace halftone::progress_bar_test {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string shown(const std::function<void()>& call) {
  testing::internal::CaptureStderr();
  call();
  return testing::internal::GetCapturedStderr();
}

StepMetrics step_of(std::int64_t step, double loss) {
  return {.step = step, .loss = loss, .lr = 1e-3, .step_ms = 500.0};
}

/// A bar that is driven by hand.
struct Bar : ProgressBar {
  using ProgressBar::ProgressBar;
  using ProgressBar::step;
};

/// What a bar that is not on a terminal says at the last of steps with these losses.
std::string last_line(const std::vector<double>& losses) {
  Bar bar(1);
  std::string line;
  for (std::int64_t i = 0; i < std::ssize(losses); ++i)
    line = shown([&] {
      bar.step(step_of(i + 1, losses[static_cast<std::size_t>(i)]),
               static_cast<double>(i + 1) / static_cast<double>(losses.size()));
    });
  return line;
}

TEST(ProgressBar, SaysWhereTheRunIs) {
  Bar bar(10);
  EXPECT_EQ(shown([&] { bar.step(step_of(1, 2.0), 0.025); }),
            "step 1   2%  loss 2.000  lr 1.00e-03  2 steps/s\n");
  EXPECT_EQ(shown([&] { bar.step(step_of(2, 2.0), 0.05); }), "") << "every tenth step";
  StepMetrics tenth = step_of(10, 2.0);
  tenth.scale = 1024.0;
  tenth.tokens_total = 100;
  tenth.tokens_per_s = 3000.0;
  const std::string line = shown([&] { bar.step(tenth, 0.25); });
  EXPECT_THAT(line, HasSubstr("step 10  25%  loss 2.000  lr 1.00e-03  scale 1024"));
  EXPECT_THAT(line, HasSubstr(" tok/s  "));
  EXPECT_THAT(line, HasSubstr(" left\n"));
}

TEST(ProgressBar, ShowsTheMeanOfTheLosses) {
  EXPECT_THAT(last_line({4.0, 2.0}), HasSubstr("loss 3.000"));
  std::vector<double> losses(10, 4.0);
  losses.push_back(3.0);
  EXPECT_THAT(last_line(losses), HasSubstr("loss 3.900"));
}

TEST(ProgressBar, IsNotANumberWhereNoLossWasOne) {
  EXPECT_THAT(last_line({NAN, INFINITY}), HasSubstr("loss nan"));
  EXPECT_THAT(last_line({INFINITY, NAN, 5.0}), HasSubstr("loss 5.000"))
      << "what was not finite does not count";
  EXPECT_THAT(last_line({5.0, INFINITY}), HasSubstr("loss 5.000"));
}

TEST(ProgressBar, AnOverflowHasALineOfItsOwn) {
  Bar bar(100);
  StepMetrics metrics = step_of(7, 2.0);
  metrics.skipped = true;
  metrics.overflow = {"wq", "wk", "wv"};
  EXPECT_EQ(shown([&] { bar.step(metrics, 0.1); }),
            "step 7: overflow in wq and 2 more; update skipped\n");
  metrics.scale = 512.0;
  EXPECT_THAT(shown([&] { bar.step(metrics, 0.1); }), HasSubstr(", loss scale was 512\n"));
}

TEST(ProgressBar, EndsWithTheRun) {
  Bar bar(100);
  EXPECT_THAT(shown([&] { bar.step(step_of(5, 1.0), 0.5); }), Not(HasSubstr("step 5")));
  EXPECT_EQ(shown([&] { bar.step(step_of(6, 1.0), 1.0); }),
            "step 6 100%  loss 1.000  lr 1.00e-03  2 steps/s\n")
      << "nothing is left to wait for";
}

}  // namespace
}  // namespace halftone::progress_bar_test
