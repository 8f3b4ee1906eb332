// SPDX-License-Identifier: Apache-2.0
// Learning rates beside those of torch.optim.lr_scheduler, which tests/golden/lightning.json has of
// runs of 3 epochs with 4 batches (make_lightning_golden.py).
#include "halftone/optim/lr_shapes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "halftone/core/error.h"
#include "halftone/optim/lr_scheduler.h"
#include "support/lightning_golden.h"
#include "support/message_of.h"

namespace halftone::lr_shapes_test {
namespace {

using nlohmann::json;
using test::lightning_golden;
using test::message_of;
using testing::HasSubstr;

/// The shape of a class of torch's; nothing for one that has no counterpart by itself.
std::optional<LrShape> shape_of(const std::string& name, const json& arguments) {
  const auto count = [&](const char* key) { return arguments[key].get<std::int64_t>(); };
  const auto real = [&](const char* key) { return arguments[key].get<double>(); };
  if (name == "StepLR") return StepLr{.step_size = count("step_size"), .gamma = real("gamma")};
  if (name == "MultiStepLR")
    return MultiStepLr{.milestones = arguments["milestones"].get<std::vector<std::int64_t>>(),
                       .gamma = real("gamma")};
  if (name == "ExponentialLR") return ExponentialLr{.gamma = real("gamma")};
  if (name == "PolynomialLR")
    return PolynomialLr{.total_iters = count("total_iters"), .power = real("power")};
  if (name == "CosineAnnealingLR")
    return CosineAnnealingLr{.t_max = count("T_max"), .eta_min = real("eta_min")};
  if (name == "CosineAnnealingWarmRestarts")
    return CosineRestartsLr{
        .t_0 = count("T_0"), .t_mult = count("T_mult"), .eta_min = real("eta_min")};
  if (name == "LambdaLR")
    return LambdaLr{[](std::int64_t k) { return 1.0 / (1.0 + static_cast<double>(k)); }};
  return std::nullopt;
}

TEST(LrShapes, AreTorchsRates) {
  std::size_t compared = 0;
  for (const json& item : lightning_golden("schedules")) {
    SCOPED_TRACE(item["scheduler"].dump() + item["arguments"].dump() + item["interval"].dump());
    const auto shape = shape_of(item["scheduler"].get<std::string>(), item["arguments"]);
    if (!shape || item["frequency"] != 1 || item["manual_optimization"] == true) continue;
    ++compared;
    const auto batches = item["batches_per_epoch"].get<std::int64_t>();
    const auto accumulate = item["accumulate_grad_batches"].get<std::int64_t>();
    const std::int64_t updates = (batches + accumulate - 1) / accumulate;
    for (std::size_t group = 0; group < 2; ++group) {
      const auto base = item["base_lr"][group].get<double>();
      const auto expected = item["lr"][group].get<std::vector<double>>();
      ASSERT_EQ(expected.size(), static_cast<std::size_t>(3 * updates));
      for (std::size_t step = 0; step < expected.size(); ++step) {
        const auto at = static_cast<std::int64_t>(step);
        const std::int64_t k = item["interval"] == "epoch" ? at / updates : at;
        EXPECT_NEAR(rate_at(*shape, base, k), expected[step], 1e-15) << step;
      }
    }
  }
  EXPECT_GE(compared, 16U);
}

PlateauLr plateau_of(const json& arguments) {
  PlateauLr plateau;
  plateau.maximize = arguments.value("mode", "min") == "max";
  plateau.factor = arguments.value("factor", plateau.factor);
  plateau.patience = arguments.value("patience", plateau.patience);
  plateau.threshold = arguments.value("threshold", plateau.threshold);
  plateau.relative_threshold = arguments.value("threshold_mode", "rel") == "rel";
  plateau.cooldown = arguments.value("cooldown", plateau.cooldown);
  plateau.min_lr = arguments.value("min_lr", plateau.min_lr);
  plateau.eps = arguments.value("eps", plateau.eps);
  return plateau;
}

TEST(LrShapes, ReducesOnThePlateausThatTorchSees) {
  std::size_t compared = 0;
  for (const json& item : lightning_golden("plateau")) {
    SCOPED_TRACE(item.dump());
    if (!item["config"].empty() || item.contains("error")) continue;
    ++compared;
    const PlateauLr plateau = plateau_of(item["arguments"]);
    PlateauState state;
    const auto base = item["base_lr"].get<double>();
    for (std::size_t epoch = 0; epoch < item["values"].size(); ++epoch) {
      EXPECT_NEAR(rate_at(plateau, base, state.reductions), item["lr"][epoch].get<double>(), 1e-15)
          << epoch;
      const json& value = item["values"][epoch];
      PlateauState resumed;  // a run that is resumed after each epoch
      resumed.load_state_dict(state.state_dict());
      resumed.observe(
          plateau, value.is_string() ? std::stod(value.get<std::string>()) : value.get<double>());
      state = resumed;
    }
    EXPECT_NEAR(rate_at(plateau, base, state.reductions), item["lr_after_fit"].get<double>(),
                1e-15);
  }
  EXPECT_GE(compared, 12U);
}

TEST(LrShapes, WarmsUpInUpdates) {
  EXPECT_EQ(warmup_factor(0.0, 0), 1.0);
  EXPECT_EQ(warmup_factor(3.0, 0), 0.25);
  EXPECT_EQ(warmup_factor(3.0, 3), 1.0);
  EXPECT_EQ(warmup_factor(3.0, 1000), 1.0);
}

TEST(LrShapes, DecaysAtTheEndOfWsd) {
  const auto at = [](double position) {
    return learning_rate({.kind = Schedule::kWsd, .lr = 1.0, .decay_share = 0.25}, position, 100);
  };
  EXPECT_EQ(at(0), 1.0);
  EXPECT_EQ(at(75), 1.0);
  EXPECT_NEAR(at(80), 0.8, 1e-12);
  EXPECT_NEAR(at(99), 0.04, 1e-12);
  EXPECT_EQ(at(100), 0.0);
  EXPECT_THROW(learning_rate({.kind = Schedule::kWsd, .decay_share = 0.0}, 0, 1), c10::Error);
}

TEST(LrShapes, RefusesWhatMakesNoSense) {
  EXPECT_THAT(message_of<UserError>([] { LrSchedule(StepLr{.step_size = 0}); }),
              HasSubstr("step_size > 0, got 0"));
  EXPECT_THAT(message_of<UserError>([] {
                LrSchedule(MultiStepLr{.milestones = {3, 2}});
              }),
              HasSubstr("ascending"));
  EXPECT_THAT(message_of<UserError>([] { LrSchedule(LambdaLr{}); }), HasSubstr("a function"));
  EXPECT_THAT(message_of<UserError>([] { LrSchedule(PlateauLr{.factor = 1.0}); }),
              HasSubstr("factor"));
  EXPECT_THAT(message_of<UserError>([] { LrSchedule(CosineRestartsLr{.t_0 = 0}); }),
              HasSubstr("t_0 > 0"));
  EXPECT_THAT(message_of<UserError>([] { LrSchedule(ExponentialLr{}, {.warmup = -1.0}); }),
              HasSubstr("warmup >= 0"));
}

TEST(LrShapes, MoveAnOptimizerInALoopOfItsOwn) {
  const std::vector<torch::Tensor> weights = {torch::zeros({2}, torch::requires_grad())};
  torch::optim::SGD optimizer(weights, 0.8);
  LrScheduler scheduler(optimizer, StepLr{.step_size = 2, .gamma = 0.5});
  std::vector<double> rates;
  for (int step = 0; step < 5; ++step) {
    rates.push_back(learning_rates(optimizer).front());
    scheduler.step();
  }
  EXPECT_THAT(rates, testing::ElementsAre(0.8, 0.8, 0.4, 0.4, 0.2));

  torch::optim::SGD other(weights, 0.8);
  LrScheduler plateau(other, PlateauLr{.factor = 0.5, .patience = 0});
  plateau.step(1.0);
  plateau.step(1.0);
  EXPECT_EQ(learning_rates(other).front(), 0.4);
  torch::optim::SGD third(weights, 0.8);
  LrScheduler resumed(third, PlateauLr{.factor = 0.5, .patience = 0});
  resumed.load_state_dict(plateau.state_dict());
  EXPECT_EQ(learning_rates(third).front(), 0.4);
  resumed.step(1.0);
  EXPECT_EQ(learning_rates(third).front(), 0.2);
  EXPECT_THROW(plateau.step(), c10::Error);
  EXPECT_THROW(scheduler.step(1.0), c10::Error);
}

}  // namespace
}  // namespace halftone::lr_shapes_test
