// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/lr_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/optim/lr_scheduler.h"
#include "support/message_of.h"

namespace halftone::lr_schedule_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

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

// torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10), PyTorch 2.15.
TEST(LrSchedule, OneCycleIsTorchs) {
  const std::vector<double> expected = {0.0040000000000000036,
                                        0.052000000000000005,
                                        0.1,
                                        0.09504846320134738,
                                        0.0811745653949763,
                                        0.06112620219362893,
                                        0.03887419780637107,
                                        0.0188258346050237,
                                        0.004951936798652629,
                                        4e-07};
  for (std::size_t s = 0; s < expected.size(); ++s)
    EXPECT_NEAR(learning_rate({.kind = Schedule::kOneCycle, .lr = 0.1}, static_cast<double>(s), 10),
                expected[s], 1e-15)
        << s;
}

TEST(LrScheduler, MovesEachGroupFromItsOwnRateAndCanBeSaved) {
  const auto options = [](double lr) { return std::make_unique<torch::optim::SGDOptions>(lr); };
  const auto group = [&](double lr) {
    return torch::optim::OptimizerParamGroup({torch::zeros({2}, torch::requires_grad())},
                                             options(lr));
  };
  torch::optim::SGD optimizer({group(1.0), group(0.1)}, *options(1.0));
  const auto rates = [&] {
    return std::vector<double>{optimizer.param_groups()[0].options().get_lr(),
                               optimizer.param_groups()[1].options().get_lr()};
  };
  LrScheduler scheduler(optimizer, {.kind = Schedule::kLinear}, 4);
  EXPECT_EQ(rates(), (std::vector<double>{1.0, 0.1}));
  scheduler.step();
  scheduler.step();
  EXPECT_EQ(rates(), (std::vector<double>{0.5, 0.05}));

  const StateDict state = scheduler.state_dict();
  scheduler.step();
  LrScheduler other(optimizer, {.kind = Schedule::kLinear}, 4);  // from rates that have moved
  other.load_state_dict(state);
  EXPECT_EQ(other.position(), 2);
  EXPECT_EQ(rates(), (std::vector<double>{0.5, 0.05}));
  torch::optim::SGD smaller({group(1.0)}, *options(1.0));
  EXPECT_THROW(LrScheduler(smaller, {}, 4).load_state_dict(state), UserError);
}

TEST(LrSchedule, WarmupRisesToTheSchedule) {
  const LrScheduleOptions options{.kind = Schedule::kConstant, .lr = 1.0, .warmup = 4};
  const std::vector<double> expected = {0.2, 0.4, 0.6, 0.8, 1.0, 1.0};
  for (std::size_t s = 0; s < expected.size(); ++s)
    EXPECT_DOUBLE_EQ(learning_rate(options, static_cast<double>(s), 10), expected[s]);
}

TEST(LrScheduler, WarnsOfAWarmupThatTheRunDoesNotEnd) {
  std::vector<std::string> warnings;
  set_log_sink([&](LogLevel, const std::string& message) { warnings.push_back(message); });
  torch::optim::SGD optimizer({torch::zeros({2}, torch::requires_grad())}, 1.0);
  const LrScheduler shorter(optimizer, {.kind = Schedule::kConstant, .warmup = 4}, 5);
  EXPECT_TRUE(warnings.empty());
  const LrScheduler longer(optimizer, {.kind = Schedule::kConstant, .warmup = 5}, 5);
  set_log_sink({});
  ASSERT_EQ(warnings.size(), 1);
  EXPECT_THAT(warnings[0], HasSubstr("the warm-up takes 5 steps, but the run has 5"));
}

TEST(LrSchedule, RefusesImpossibleRuns) {
  EXPECT_THROW(learning_rate({}, 0, 0), c10::Error);
  EXPECT_THROW(learning_rate({}, -1, 5), c10::Error);
  EXPECT_THROW(learning_rate({.warmup = -1}, 0, 5), c10::Error);
}

TEST(LrSchedule, NamesRoundTripAndSlipsAreMended) {
  for (const std::string& name : schedule_names())
    EXPECT_EQ(schedule_name(parse_schedule(name)), name);
  EXPECT_THAT(test::message_of<UserError>([] { parse_schedule("cosin"); }),
              AllOf(HasSubstr("did you mean 'cosine'"),
                    HasSubstr("minimind, cosine, linear, constant, one-cycle")));
}

}  // namespace
}  // namespace halftone::lr_schedule_test
