// SPDX-License-Identifier: Apache-2.0
// Steps of the Trainer beside Lightning's: learning rates, clipping, optimizers by hand, logging.
// tests/golden/lightning.json has Lightning's, in fp64; here they are fp32.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/functional/activation.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/train/learning_rate_monitor.h"
#include "halftone/train/logger.h"
#include "halftone/train/trainer.h"
#include "support/lightning_golden.h"
#include "support/temp_folder.h"

namespace halftone::lightning_steps_test {
namespace {

using nlohmann::json;
using test::lightning_golden;
using test::TempFolder;
using torch::Tensor;

Tensor tensor_of(const json& values) {
  if (values.is_number()) return torch::tensor(values.get<double>()).to(torch::kFloat);
  std::vector<Tensor> parts;
  for (const json& value : values) parts.push_back(tensor_of(value));
  return torch::stack(parts);
}

void expect_close(const Tensor& got, const json& expected, const std::string& what) {
  EXPECT_TRUE(got.allclose(tensor_of(expected), 2e-5, 2e-6)) << what << ": " << got << expected;
}

Tensor parameter(torch::nn::Module& module, const char* name, const json& start) {
  return module.register_parameter(name, tensor_of(start));
}

std::vector<Tensor> ones(std::int64_t count) {
  return std::vector<Tensor>(static_cast<std::size_t>(count), torch::ones({1}));
}

/// Two groups with rates of their own, and what they are in each step.
struct TwoGroups : TrainingModule<Tensor> {
  TwoGroups(const json& the_rates, LrSchedule the_schedule)
      : rates(the_rates.get<std::vector<double>>()), schedule(std::move(the_schedule)) {}
  Tensor training_step(const Tensor& batch, std::int64_t /*index*/) override {
    return (batch * (first + second)).sum() * 0.0;
  }
  void validation_step(const Tensor& /*batch*/, std::int64_t /*index*/) override {
    log("value", values.empty() ? 0.0 : values[validations]);
  }
  void on_validation_end() override { ++validations; }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    std::vector<torch::optim::OptimizerParamGroup> groups;
    groups.emplace_back(std::vector{first}, std::make_unique<torch::optim::SGDOptions>(rates[0]));
    groups.emplace_back(std::vector{second},
                        std::make_unique<torch::optim::SGDOptions>(rates.back()));
    optimizer = std::make_shared<torch::optim::SGD>(groups, torch::optim::SGDOptions(1.0));
    return {{optimizer, schedule}};
  }
  void on_before_optimizer_step() override {
    for (std::size_t i = 0; i < 2; ++i)
      seen[i].push_back(optimizer->param_groups()[i].options().get_lr());
  }
  Tensor first = register_parameter("first", torch::ones({1}));
  Tensor second = register_parameter("second", torch::ones({1}));
  std::vector<double> rates, values;
  LrSchedule schedule;
  std::shared_ptr<torch::optim::SGD> optimizer;
  std::vector<double> seen[2];
  std::size_t validations = 0;
};

// guide: lr_scheduler
TEST(LightningSteps, HaveTheSameRates) {
  std::size_t compared = 0;
  for (const json& item : lightning_golden("schedules")) {
    SCOPED_TRACE(item.dump());
    const json& arguments = item["arguments"];
    const std::string name = item["scheduler"].get<std::string>();
    std::optional<LrShape> shape;
    if (name == "StepLR")
      shape = StepLr{.step_size = arguments["step_size"].get<std::int64_t>(),
                     .gamma = arguments["gamma"].get<double>()};
    if (name == "ExponentialLR") shape = ExponentialLr{.gamma = arguments["gamma"].get<double>()};
    if (name == "OneCycleLR" && arguments["anneal_strategy"] == "cos")
      shape = LrScheduleOptions{.kind = Schedule::kOneCycle};
    if (!shape || item["frequency"] != 1 || item["manual_optimization"] == true) continue;
    ++compared;
    const bool by_epoch = item["interval"] == "epoch";
    TwoGroups module(
        item["base_lr"],
        LrSchedule(*shape, {.interval = by_epoch ? LrInterval::kEpoch : LrInterval::kStep}));
    auto data = ones(item["batches_per_epoch"].get<std::int64_t>());
    Trainer({.max_epochs = item["max_epochs"].get<std::int64_t>(),
             .accelerator = "cpu",
             .accumulate_grad_batches = item["accumulate_grad_batches"].get<std::int64_t>()})
        .fit(module, data);
    for (std::size_t group = 0; group < 2; ++group) {
      const auto expected = item["lr"][group].get<std::vector<double>>();
      ASSERT_EQ(module.seen[group].size(), expected.size());
      for (std::size_t i = 0; i < expected.size(); ++i)
        EXPECT_NEAR(module.seen[group][i], expected[i], 1e-12) << i;
    }
  }
  EXPECT_GE(compared, 8U);
}

// guide: ReduceLROnPlateau
TEST(LightningSteps, ReduceTheRateOnTheSamePlateaus) {
  const json& item = lightning_golden("plateau")[0];
  const auto values = item["values"].get<std::vector<double>>();
  const PlateauLr plateau{.monitor = "value",
                          .factor = item["arguments"]["factor"].get<double>(),
                          .patience = item["arguments"]["patience"].get<std::int64_t>()};
  const TempFolder folder;
  const auto fit = [&](std::int64_t steps, bool resume, std::size_t validated) {
    TwoGroups module(json::array({item["base_lr"]}), plateau);
    module.values = values;
    module.validations = validated;
    auto data = ones(1), validation = ones(1);
    Trainer({.max_steps = steps,
             .accelerator = "cpu",
             .default_root_dir = folder / "run",
             .num_sanity_val_steps = 0})
        .fit(module, data, validation, {.resume = resume});
    return module.seen[0];
  };
  std::vector<double> rates = fit(4, false, 0);
  const std::vector<double> rest = fit(std::ssize(values), true, 4);
  rates.insert(rates.end(), rest.begin(), rest.end());
  const auto expected = item["lr"].get<std::vector<double>>();
  ASSERT_EQ(rates.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(rates[i], expected[i], 1e-12) << i;
  TwoGroups blind(json::array({0.1}), plateau);
  auto data = ones(1);
  EXPECT_THROW(Trainer({.max_steps = 1, .accelerator = "cpu"}).fit(blind, data), UserError);
}

/// Each batch is the gradient of the weights.
struct Sloped : TrainingModule<Tensor> {
  explicit Sloped(const json& start)
      : pair(parameter(*this, "pair", json::array({start[0], start[1]}))),
        other(parameter(*this, "other", json::array({start[2]}))) {}
  Tensor training_step(const Tensor& batch, std::int64_t /*index*/) override {
    return (batch * torch::cat({pair, other})).sum();
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.1)};
  }
  Tensor pair, other;
};

/// After each step.
struct Collect : Callback {
  explicit Collect(std::function<void(Trainer&, const StepMetrics&)> the_act)
      : act(std::move(the_act)) {}
  void on_step_end(Trainer& trainer, const StepMetrics& metrics) override { act(trainer, metrics); }
  std::function<void(Trainer&, const StepMetrics&)> act;
};

// guide: gradient_clip_val, gradient_clip_algorithm
TEST(LightningSteps, ClipAlike) {
  std::size_t compared = 0;
  for (const json& item : lightning_golden("clipping")) {
    SCOPED_TRACE(item.dump());
    const json& options = item["options"];
    bool finite = true;
    for (const json& row : item["gradients"])
      for (const json& value : row) finite = finite && value.is_number();
    // An update with a gradient that is not finite is skipped here; negative thresholds are
    // refused.
    const bool negative =
        options["gradient_clip_val"].is_number() && options["gradient_clip_val"] < 0;
    if (!finite || negative || item.contains("error") ||
        options.contains("accumulate_grad_batches"))
      continue;
    ++compared;
    Sloped module(item["start"]);
    TrainerOptions trainer{.max_epochs = 1, .accelerator = "cpu"};
    if (options["gradient_clip_val"].is_number())
      trainer.gradient_clip_val = options["gradient_clip_val"].get<double>();
    if (options.contains("gradient_clip_algorithm") &&
        options["gradient_clip_algorithm"].is_string())
      trainer.gradient_clip_algorithm = options["gradient_clip_algorithm"].get<std::string>();
    std::size_t step = 0;
    trainer.callbacks = {
        std::make_shared<Collect>([&](Trainer& /*trainer*/, const StepMetrics& metrics) {
          expect_close(torch::cat({module.pair, module.other}), item["weights"][step], "weights");
          EXPECT_NEAR(metrics.grad_norm.value(), item["norms_before_clipping"][step].get<double>(),
                      1e-5);
          ++step;
        })};
    std::vector<Tensor> data;
    for (const json& row : item["gradients"]) data.push_back(tensor_of(row));
    Trainer(trainer).fit(module, data);
    EXPECT_EQ(step, data.size());
  }
  EXPECT_GE(compared, 6U);
}

/// Scores d . x + c; the generator scales noise by g and adds b.
struct Adversarial : TrainingModule<std::pair<Tensor, Tensor>> {
  explicit Adversarial(const json& the_case) : item(the_case) {}
  bool automatic_optimization() const override { return false; }
  std::shared_ptr<torch::optim::Optimizer> make(const std::vector<Tensor>& parameters) const {
    const json& arguments = item["arguments"];
    const auto lr = arguments["lr"].get<double>();
    if (item["optimizer"] == "SGD") return std::make_shared<torch::optim::SGD>(parameters, lr);
    return std::make_shared<torch::optim::Adam>(parameters,
                                                torch::optim::AdamOptions(lr).betas({0.5, 0.999}));
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {make({d, c}), make({g, b})};
  }
  Tensor score(const Tensor& x) const { return torch::matmul(x, d) + c; }
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    namespace F = torch::nn::functional;
    const auto fake = [&] { return batch.second * g + b; };
    const auto update = [&](std::size_t i, const std::function<Tensor()>& loss_of) {
      const auto only = optimizer(i).toggled();
      const Tensor loss = loss_of();
      optimizer(i).zero_grad();
      manual_backward(loss);
      optimizer(i).step();
      return loss;
    };
    const Tensor judge = update(0, [&] {
      return F::softplus(-score(batch.first)).mean() + F::softplus(score(fake().detach())).mean();
    });
    update(1, [&] { return F::softplus(-score(fake())).mean(); });
    return judge;
  }
  Tensor d = parameter(*this, "d", {0.5, -0.25}), c = parameter(*this, "c", 0.125);
  Tensor g = parameter(*this, "g", {0.75, 1.25}), b = parameter(*this, "b", {0.0, -0.5});
  const json& item;
};

// guide: manual_optimization
TEST(LightningSteps, AlternateTwoOptimizersAlike) {
  std::size_t compared = 0;
  for (const json& item : lightning_golden("manual")) {
    if (item["case"] != "adversarial") continue;
    ++compared;
    Adversarial module(item);
    std::vector<std::pair<Tensor, Tensor>> data;
    for (std::size_t i = 0; i < item["real"].size(); ++i)
      data.emplace_back(tensor_of(item["real"][i]), tensor_of(item["noise"][i]));
    std::size_t step = 0;
    const auto compare =
        std::make_shared<Collect>([&](Trainer& /*trainer*/, const StepMetrics& metrics) {
          const json& expected = item["weights"][step];
          expect_close(module.d, expected["d"], "d");
          expect_close(module.c, expected["c"], "c");
          expect_close(module.g, expected["g"], "g");
          expect_close(module.b, expected["b"], "b");
          EXPECT_NEAR(metrics.loss, item["losses"][step][0].get<double>(), 1e-5);
          ++step;
        });
    Trainer({.max_epochs = 3, .accelerator = "cpu", .callbacks = {compare}}).fit(module, data);
    EXPECT_EQ(step, 6U);
  }
  EXPECT_EQ(compared, 2U);
}

/// Steps after each `accumulate` batches, clipped to a norm.
struct ManualLine : TrainingModule<> {
  explicit ManualLine(const json& the_case) : item(the_case) {}
  bool automatic_optimization() const override { return false; }
  Tensor training_step(const Batch& batch, std::int64_t index) override {
    const auto accumulate = item["accumulate"].get<std::int64_t>();
    const Tensor loss = (batch.data * weight[0] + weight[1] - batch.target).square().mean();
    manual_backward(loss / accumulate);
    if ((index + 1) % accumulate == 0) {
      const double norm = item["clip_norm"].is_null() ? 0.0 : item["clip_norm"].get<double>();
      optimizer().step({.value = norm});
      optimizer().zero_grad();
    }
    return loss;
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.1)};
  }
  const json& item;
  Tensor weight = parameter(*this, "weight", item["start"]);
};

// guide: clip_gradients
TEST(LightningSteps, AccumulateAndClipByHandAlike) {
  std::size_t compared = 0;
  for (const json& item : lightning_golden("manual")) {
    if (item["case"] != "line") continue;
    SCOPED_TRACE(item.dump());
    ++compared;
    ManualLine module(item);
    std::vector<torch::data::Example<>> data;
    for (std::size_t i = 0; i < item["x"].size(); i += 2)
      data.emplace_back(tensor_of(json::array({item["x"][i], item["x"][i + 1]})),
                        tensor_of(json::array({item["y"][i], item["y"][i + 1]})));
    std::size_t step = 0;
    const auto compare =
        std::make_shared<Collect>([&](Trainer& /*trainer*/, const StepMetrics& /*metrics*/) {
          expect_close(module.weight, item["weights"][step++], "weight");
        });
    Trainer({.max_epochs = 1, .accelerator = "cpu", .callbacks = {compare}}).fit(module, data);
    EXPECT_EQ(step, 4U);
  }
  EXPECT_EQ(compared, 4U);
}

struct Memory : Logger {
  void open(const std::filesystem::path& /*folder*/, std::int64_t /*last_step*/) override {
    ++opened;
  }
  void log_metrics(std::int64_t step, const std::map<std::string, double>& values) override {
    steps.push_back(step);
    if (values.contains("value")) logged.push_back(values.at("value"));
  }
  void log_hyper_parameters(const StateDict& values) override { hyper_parameters = values; }
  void close() override { ++closed; }
  std::vector<std::int64_t> steps;
  std::vector<double> logged;
  StateDict hyper_parameters;
  int opened = 0, closed = 0;
};

// guide: log_every_n_steps
TEST(LightningSteps, ReachALoggerAsOften) {
  struct Logging : TwoGroups {
    Logging() : TwoGroups(json::array({0.1}), StepLr{}) { save_hyper_parameters({{"width", 3}}); }
    Tensor training_step(const Tensor& batch, std::int64_t index) override {
      log("value", batch.sum());
      return TwoGroups::training_step(batch, index);
    }
  };
  std::size_t compared = 0;
  for (const json& item : lightning_golden("log_steps")) {
    SCOPED_TRACE(item.dump());
    const json& options = item["options"];
    const std::int64_t every = options.value("log_every_n_steps", std::int64_t{50});
    if (every == 0 || options.value("accumulate_grad_batches", 1) != 1) continue;
    ++compared;
    const TempFolder folder;
    const auto memory = std::make_shared<Memory>();
    Logging module;
    std::vector<Tensor> data;
    for (const json& sample : item["samples"]) data.push_back(tensor_of(json::array({sample})));
    Trainer({.max_epochs = options["max_epochs"].get<std::int64_t>(),
             .accelerator = "cpu",
             .loggers = {memory},
             .log_every_n_steps = every,
             .default_root_dir = folder / "run"})
        .fit(module, data);
    std::vector<std::int64_t> steps;  // from 0 there, from 1 here
    for (const json& step : item["steps"]) steps.push_back(step.get<std::int64_t>() + 1);
    EXPECT_EQ(memory->steps, steps);
    EXPECT_EQ(memory->logged, item["values"].get<std::vector<double>>());
    EXPECT_EQ(memory->opened, 1);
    EXPECT_EQ(memory->closed, 1);
    EXPECT_EQ(memory->hyper_parameters.get<std::int64_t>("width"), 3);
  }
  EXPECT_GE(compared, 3U);
  EXPECT_THROW(Trainer({.loggers = {std::make_shared<Memory>()}}), UserError)
      << "where is it to write?";
}

}  // namespace
}  // namespace halftone::lightning_steps_test
