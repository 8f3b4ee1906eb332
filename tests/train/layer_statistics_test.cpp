// SPDX-License-Identifier: Apache-2.0
// Statistics of layers: that they are PyTorch's numbers, that measuring changes no bit in any
// recipe, and that faults are named.
#include "halftone/train/layer_statistics.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <stdexcept>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/nn/linear.h"
#include "halftone/optim/adamw.h"
#include "halftone/precision/policy.h"
#include "halftone/train/csv_logger.h"
#include "halftone/train/network_state.h"
#include "halftone/train/trainer.h"
#include "support/message_of.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::layer_statistics_test {
namespace {

using test::message_of;
using test::TempFolder;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using torch::Tensor;
using Logged = std::map<std::string, double>;

/// What was logged in each step, and a stop.
struct Steps : Callback {
  void on_step_end(Trainer& trainer, const StepMetrics& metrics) override {
    logged.push_back(metrics.logged);
    all.push_back(metrics);
    if (metrics.step == stop_at) trainer.stop();
  }
  std::vector<Logged> logged;
  std::vector<StepMetrics> all;
  std::int64_t stop_at = -1;
};

/// The messages of a scope.
class Messages {
 public:
  Messages() {
    set_log_sink([this](LogLevel, const std::string& text) { texts.push_back(text); });
  }
  ~Messages() { set_log_sink({}); }
  std::vector<std::string> texts;
};

std::vector<std::int64_t> sampled_steps(const Steps& steps) {
  std::vector<std::int64_t> sampled;
  for (std::size_t i = 0; i < steps.logged.size(); ++i)
    if (!steps.logged[i].empty()) sampled.push_back(static_cast<std::int64_t>(i) + 1);
  return sampled;
}

// ---- the numbers

/// Parameters with given gradients: the loss is the sum of their products.
class Products : public TrainingModule<std::int64_t> {
 public:
  explicit Products(const nlohmann::json& the_case, const nlohmann::json& shapes)
      : case_(the_case) {
    for (const auto& [name, shape] : shapes.items()) {
      sizes_[name] = shape.get<std::vector<std::int64_t>>();
      parameters_[name] = register_parameter(name, tensor(the_case["weights"], name));
    }
  }
  Tensor training_step(const std::int64_t& batch, std::int64_t /*index*/) override {
    Tensor loss;
    for (const auto& [name, parameter] : parameters_) {
      const Tensor gradient =
          tensor(case_["batches"][static_cast<std::size_t>(batch)], name).to(parameter);
      const Tensor sum = (parameter * gradient).sum();
      loss = loss.defined() ? loss + sum : sum;
    }
    return loss;
  }
  double loss_weight(const std::int64_t& /*batch*/) const override { return 1.0; }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    const double lr = case_["lr"];
    if (case_["optimizer"] == "sgd") return {std::make_shared<torch::optim::SGD>(parameters(), lr)};
    std::vector<std::pair<std::string, Tensor>> named(parameters_.begin(), parameters_.end());
    return {std::make_shared<AdamW>(named, AdamWOptions{.lr = lr, .weight_decay = 0.0})};
  }

 private:
  Tensor tensor(const nlohmann::json& values, const std::string& name) const {
    const auto numbers = values.at(name).get<std::vector<double>>();
    return torch::tensor(numbers, torch::kDouble).to(torch::kFloat).view(sizes_.at(name));
  }

  nlohmann::json case_;
  std::map<std::string, std::vector<std::int64_t>> sizes_;
  std::map<std::string, Tensor> parameters_;
};

void expect_numbers(const Logged& actual, const nlohmann::json& expected) {
  for (const auto& [key, value] : expected.items()) {
    ASSERT_TRUE(actual.contains(key)) << key;
    const double number = value;
    const bool is_share =
        key.find("_share/") != std::string::npos || key.find("lost_updates/") != std::string::npos;
    EXPECT_NEAR(actual.at(key), number, is_share ? 0.005 : 1e-3 * std::abs(number)) << key;
  }
  EXPECT_EQ(actual.size(), expected.size());
}

TEST(LayerStatistics, AreThoseOfPyTorch) {
  const nlohmann::json golden = nlohmann::json::parse(
      std::ifstream(std::string(test::kGoldenDir) + "/layer_statistics.json"));
  for (const nlohmann::json& one : golden["cases"]) {
    SCOPED_TRACE(one["name"].get<std::string>());
    Products module(one, golden["shapes"]);
    std::vector<std::int64_t> batches(one["batches"].size());
    std::iota(batches.begin(), batches.end(), 0);
    const auto steps = std::make_shared<Steps>();
    const double scale = one["scale"];
    Trainer({.max_epochs = 1,
             .precision = one["name"],
             .accelerator = "cpu",
             .accumulate_grad_batches = one["accumulate"],
             .gradient_clip_val = one["clip"],
             .callbacks = {std::make_shared<LayerStatistics>(
                               LayerStatisticsOptions{.every_n_steps = 1}),
                           steps},
             .scaler = {.init_scale = scale, .min_scale = scale, .max_scale = scale}})
        .fit(module, batches);
    ASSERT_EQ(steps->logged.size(), one["steps"].size());
    for (std::size_t i = 0; i < steps->logged.size(); ++i) {
      SCOPED_TRACE(i);
      expect_numbers(steps->logged[i], one["steps"][i]);
    }
  }
}

// ---- a network in every recipe

/// Enough of a matrix (4096 elements) to be stored as the memory recipes say.
struct Net : TrainingModule<> {
  explicit Net(MemoryOptions the_memory = {}, std::string the_precision = "32-true",
               AdamWOptions the_adamw = {.lr = 0.01})
      : memory(std::move(the_memory)), precision(std::move(the_precision)), adamw(the_adamw) {}

  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    const Tensor middle = first(batch.data).tanh();
    const Tensor loss = (last(middle) - batch.target).square().mean() * factor;
    return ++steps == bad_step ? loss * INFINITY : loss;
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    std::vector<std::pair<std::string, Tensor>> named;
    for (const auto& item : named_parameters()) named.emplace_back(item.key(), item.value());
    auto optimizer = std::make_shared<AdamW>(named, context.adamw(adamw));
    made = optimizer;
    return {optimizer};
  }

  MemoryOptions memory;
  std::string precision;
  AdamWOptions adamw;
  double factor = 1.0;
  std::int64_t steps = 0, bad_step = -1;
  std::shared_ptr<AdamW> made;
  Linear first = register_module("first", Linear(64, 80));
  Linear last = register_module("last", Linear(80, 64));
};

TensorLoader loader(std::int64_t count = 32) {
  torch::manual_seed(1);
  const Tensor x = torch::randn({count, 64});
  return TensorLoader({x, x.roll(1, 1).tanh()}, {.batch_size = 4, .seed = 3});
}

struct Outcome {
  std::shared_ptr<Net> module;
  std::shared_ptr<Steps> steps;
};

Outcome trained(std::shared_ptr<Net> module, TrainerOptions options,
                std::optional<LayerStatisticsOptions> watch, const FitOptions& how = {},
                std::int64_t stop_at = -1) {
  const auto steps = std::make_shared<Steps>();
  steps->stop_at = stop_at;
  options.precision = module->precision;
  options.accelerator = "cpu";
  options.memory = module->memory;
  if (!options.max_steps) options.max_steps = 6;
  if (watch) options.callbacks.push_back(std::make_shared<LayerStatistics>(*watch));
  options.callbacks.push_back(steps);
  TensorLoader data = loader();
  Trainer(std::move(options)).fit(module, data, how);
  return {module, steps};
}

std::shared_ptr<Net> net(MemoryOptions memory = {}, std::string precision = "32-true",
                         AdamWOptions adamw = {.lr = 0.01}) {
  torch::manual_seed(7);
  return std::make_shared<Net>(std::move(memory), std::move(precision), adamw);
}

void expect_same_bits(const Net& a, const Net& b) {
  const auto same = [](const StateDict& one, const StateDict& other) {
    ASSERT_EQ(one.tensors.size(), other.tensors.size());
    for (const auto& [name, tensor] : one.tensors)
      EXPECT_TRUE(tensor.equal(other.tensor(name))) << name;
  };
  same(network_state(a), network_state(b));
  same(a.made->state_dict(), b.made->state_dict());
}

struct RecipeOfNet {
  std::string precision, memory;
};

class InEveryRecipe : public testing::TestWithParam<RecipeOfNet> {};

std::vector<RecipeOfNet> recipes_of_net() {
  std::vector<RecipeOfNet> recipes;
  for (const std::string& precision : precision_names())
    for (const std::string& memory : memory_names()) {
      try {
        memory_policy({.memory = memory}, parse_precision(precision));
        recipes.push_back({precision, memory});
      } catch (const UserError&) {  // it says why
      }
    }
  return recipes;
}

std::string recipe_name_of(const testing::TestParamInfo<RecipeOfNet>& info) {
  std::string name = info.param.precision + "_" + info.param.memory;
  std::replace(name.begin(), name.end(), '-', '_');
  return "in_" + name;
}

TEST_P(InEveryRecipe, WatchingChangesNoBit) {
  const MemoryOptions memory{.memory = GetParam().memory};
  for (const double clip : {0.0, 0.1}) {
    TrainerOptions options{
        .accumulate_grad_batches = 2, .gradient_clip_val = clip, .scaler = {.init_scale = 1024.0}};
    // Batches of released gradients are joined, which this type of batch can't be.
    if (GetParam().memory == "leanest") options.accumulate_grad_batches = 1;
    const Outcome plain = trained(net(memory, GetParam().precision), options, std::nullopt);
    const Outcome watched =
        trained(net(memory, GetParam().precision), options, {{.every_n_steps = 2}});
    expect_same_bits(*plain.module, *watched.module);
    EXPECT_THAT(sampled_steps(*watched.steps), ElementsAre(2, 4, 6));
    for (const char* name : {"first.weight", "last.weight"})
      for (const char* key : {"grad_norm/", "grad_max/", "underflow_share/", "update_ratio/"}) {
        ASSERT_TRUE(watched.steps->logged[3].contains(std::string(key) + name)) << key << name;
        EXPECT_TRUE(std::isfinite(watched.steps->logged[3].at(std::string(key) + name)));
      }
  }
}

TEST_P(InEveryRecipe, TheNormsAreThatOfTheStep) {
  const Outcome watched = trained(net({.memory = GetParam().memory}, GetParam().precision),
                                  {.scaler = {.init_scale = 1024.0}}, {{.every_n_steps = 1}});
  for (const StepMetrics& metrics : watched.steps->all) {
    double square = 0.0;
    for (const auto& [key, value] : metrics.logged)
      if (key.starts_with("grad_norm/")) square += value * value;
    ASSERT_TRUE(metrics.grad_norm);
    EXPECT_NEAR(std::sqrt(square), *metrics.grad_norm, 1e-5 * *metrics.grad_norm);
  }
}

INSTANTIATE_TEST_SUITE_P(LayerStatistics, InEveryRecipe, testing::ValuesIn(recipes_of_net()),
                         recipe_name_of);

TEST(LayerStatistics, OfReleasedGradientsAreThoseOfOrdinaryOnes) {
  for (const char* clip_mode : {"exact", "previous"}) {
    for (const double clip : {0.0, 0.05}) {
      if (clip > 0.0 && std::string(clip_mode) == "previous") continue;  // another update
      MemoryOptions memory{.memory = "leanest", .clip_mode = clip_mode};
      const Outcome released =
          trained(net(memory, "bf16-mixed"), {.gradient_clip_val = clip}, {{.every_n_steps = 1}});
      memory.release_gradients = "off";
      memory.clip_mode = "exact";
      const Outcome ordinary =
          trained(net(memory, "bf16-mixed"), {.gradient_clip_val = clip}, {{.every_n_steps = 1}});
      expect_same_bits(*released.module, *ordinary.module);
      EXPECT_THAT(released.steps->logged, Not(Contains(IsEmpty())));
      EXPECT_EQ(released.steps->logged, ordinary.steps->logged) << clip_mode << clip;
    }
  }
}

TEST(LayerStatistics, AMasterIsPartOfTheWeight) {
  const auto updates = [](const char* master) {
    const Outcome run = trained(net({.memory = "lean", .master_weights = master, .moments = "fp32"},
                                    "bf16-mixed", {.lr = 1e-5}),
                                {}, {{.every_n_steps = 3}});
    return run.steps->logged[2];
  };
  const Logged exact = updates("split16"), coarse = updates("none");
  EXPECT_LT(exact.at("lost_updates/first.weight"), 0.01);
  EXPECT_FALSE(exact.contains("unchanged_weights/first.weight"));
  // Rounded stochastically: most weights stay where they are, and nothing is lost by it.
  EXPECT_GT(coarse.at("unchanged_weights/first.weight"), 0.5);
  EXPECT_FALSE(coarse.contains("lost_updates/first.weight"));
  EXPECT_NEAR(exact.at("update_ratio/first.weight"), 1e-4, 5e-5);
}

// ---- which steps, which parameters

TEST(LayerStatistics, AResumedRunSamplesTheSameSteps) {
  const TempFolder folder;
  for (const std::int64_t every : {2, 0}) {
    SCOPED_TRACE(every);
    const auto run = [&](const char* name, std::int64_t stop_at, bool resume) {
      return trained(net(), {.max_steps = 9, .default_root_dir = folder / name, .overwrite = true},
                     {{.every_n_steps = every}}, {.resume = resume}, stop_at);
    };
    const Outcome straight = run("straight", -1, false);
    run("parts", 3, false);
    const Outcome resumed = run("parts", -1, true);
    expect_same_bits(*straight.module, *resumed.module);
    if (every == 0) continue;  // the interval depends on the time that steps take
    for (std::size_t i = 0; i < resumed.steps->logged.size(); ++i)
      EXPECT_EQ(resumed.steps->logged[i], straight.steps->logged[3 + i]) << i;
    EXPECT_EQ(test::read_text(folder / "parts/metrics.jsonl").find("null,\"grad_norm/"),
              std::string::npos);
  }
}

TEST(LayerStatistics, ChoosesItsInterval) {
  const auto watch = std::make_shared<LayerStatistics>();
  const auto steps = std::make_shared<Steps>();
  const auto module = net();
  TensorLoader data = loader();
  Trainer({.max_steps = 40, .accelerator = "cpu", .callbacks = {watch, steps}}).fit(module, data);
  EXPECT_THAT(sampled_steps(*steps), testing::Contains(1));
  EXPECT_THAT(sampled_steps(*steps), testing::Contains(4));
  EXPECT_EQ(watch->every_n_steps() & (watch->every_n_steps() - 1), 0);
  const StateDict state = watch->state_dict();
  EXPECT_GT(state.get<double>("step_s"), 0.0);
  LayerStatistics other;
  other.load_state_dict(state);
  EXPECT_EQ(other.every_n_steps(), watch->every_n_steps());
  LayerStatistics fixed({.every_n_steps = 7});
  EXPECT_TRUE(fixed.state_dict().values.empty());
  fixed.load_state_dict(state);
  EXPECT_EQ(fixed.every_n_steps(), 7);
}

TEST(LayerStatistics, PatternsNameParameters) {
  const Outcome run =
      trained(net(), {.max_steps = 1}, {{.every_n_steps = 1, .patterns = {"last\\."}}});
  EXPECT_TRUE(run.steps->logged[0].contains("grad_norm/last.weight"));
  EXPECT_FALSE(run.steps->logged[0].contains("grad_norm/first.weight"));
  EXPECT_THAT(message_of<UserError>([] {
                trained(net(), {.max_steps = 1}, {{.every_n_steps = 1, .patterns = {"wq"}}});
              }),
              HasSubstr("got 'wq', which is found in none"));
  EXPECT_THAT(message_of<UserError>([] { LayerStatistics({.patterns = {"("}}); }),
              HasSubstr("expected a regular expression, got '('"));
  EXPECT_THAT(message_of<UserError>([] { LayerStatistics({.every_n_steps = -1}); }),
              HasSubstr("expected every_n_steps >= 0"));
}

TEST(LayerStatistics, LeavesOutWhatHasNoNumbers) {
  auto module = net();
  module->first->weight.set_requires_grad(false);
  module->bad_step = 2;
  const Outcome run = trained(module, {.max_steps = 3}, {{.every_n_steps = 1}});
  EXPECT_FALSE(run.steps->logged[0].contains("grad_norm/first.weight"));
  EXPECT_TRUE(run.steps->logged[0].contains("grad_norm/last.weight"));
  EXPECT_TRUE(run.steps->all[1].skipped);
  EXPECT_THAT(run.steps->logged[1], IsEmpty());
  EXPECT_TRUE(run.steps->logged[2].contains("update_ratio/last.weight"));
  const Outcome still =
      trained(net({}, "32-true", {.lr = 0.0}), {.max_steps = 1}, {{.every_n_steps = 1}});
  EXPECT_TRUE(still.steps->logged[0].contains("grad_norm/last.weight"));
  EXPECT_FALSE(still.steps->logged[0].contains("lost_updates/last.weight"));
}

TEST(LayerStatistics, RefusesAModuleThatStepsItsOptimizersItself) {
  struct Manual : Net {
    bool automatic_optimization() const override { return false; }
  };
  torch::manual_seed(7);
  Manual module;
  TensorLoader data = loader();
  EXPECT_THAT(message_of<UserError>([&] {
                Trainer({.max_steps = 1,
                         .accelerator = "cpu",
                         .callbacks = {std::make_shared<LayerStatistics>()}})
                    .fit(module, data);
              }),
              HasSubstr("its automatic_optimization() is false"));
}

TEST(LayerStatistics, AreForgottenAfterAnError) {
  struct Failing : Net {
    Failing() : Net({.memory = "leanest"}, "bf16-mixed") {}
    void on_before_backward(const Tensor& /*loss*/) override {
      throw std::runtime_error("in the middle of a sampled step");
    }
  };
  const auto watch = std::make_shared<LayerStatistics>(LayerStatisticsOptions{.every_n_steps = 1});
  TensorLoader data = loader();
  const TrainerOptions options{.max_steps = 1,
                               .precision = "bf16-mixed",
                               .accelerator = "cpu",
                               .callbacks = {watch},
                               .memory = {.memory = "leanest"}};
  {
    Failing module;
    EXPECT_THROW(Trainer(options).fit(module, data), std::runtime_error);
    (module.last(module.first(torch::ones({1, 64}).to(module.first->weight)))).sum().backward();
  }
  const auto module = net({.memory = "leanest"}, "bf16-mixed");
  Trainer(options).fit(module, data);
}

// ---- faults are named

TEST(LayerStatistics, NamesGradientsBelowFp16) {
  for (const char* precision : {"16-mixed", "16-true"}) {
    for (const double scale : {1.0, 8.0}) {
      SCOPED_TRACE(fmt::format("{} at {}", precision, scale));
      auto module = net({}, precision);
      module->factor = 1e-7;  // gradients of 1e-9
      const Messages messages;
      const Outcome run =
          trained(module, {.scaler = {.init_scale = scale, .min_scale = scale, .max_scale = scale}},
                  {{.every_n_steps = 1}});
      EXPECT_GT(run.steps->logged[1].at("underflow_share/first.weight"), 0.5);
      EXPECT_THAT(messages.texts,
                  Contains(testing::AllOf(HasSubstr("step 3: underflow: "),
                                          HasSubstr(fmt::format("at the loss scale {:g}", scale)),
                                          HasSubstr("weight"), HasSubstr("raise the loss scale"))));
      EXPECT_EQ(std::count_if(messages.texts.begin(), messages.texts.end(),
                              [](const auto& text) { return text.find("underflow") != text.npos; }),
                1);
    }
  }
}

TEST(LayerStatistics, NamesUpdatesThatRoundingLoses) {
  const auto run = [](bool stochastic) {
    const Messages messages;
    const MemoryOptions memory{.rounding = stochastic ? "stochastic" : "nearest"};
    trained(net(memory, "bf16-true", {.lr = 1e-5}), {}, {{.every_n_steps = 1}});
    return messages.texts;
  };
  EXPECT_THAT(run(false), Contains(testing::AllOf(
                              HasSubstr("step 3: lost updates: rounding to bf16"),
                              HasSubstr("first.weight"), HasSubstr("round stochastically"))));
  EXPECT_THAT(run(true), Not(Contains(HasSubstr("lost updates"))));
}

TEST(LayerStatistics, IsSilentInGoodRuns) {
  for (const std::string& precision : precision_names()) {
    SCOPED_TRACE(precision);
    const Messages messages;
    trained(net({}, precision, {.lr = 0.01}), {.scaler = {.init_scale = 16384.0}},
            {{.every_n_steps = 1}});
    EXPECT_THAT(messages.texts, Not(Contains(HasSubstr("lost updates"))));
    EXPECT_THAT(messages.texts, Not(Contains(HasSubstr("underflow"))));
  }
}

// ---- where the numbers go

TEST(LayerStatistics, ReachTheLoggersAndTheReport) {
  const TempFolder folder;
  const auto module = net({.rounding = "nearest"}, "bf16-true", {.lr = 1e-4});
  trained(module, {.loggers = {std::make_shared<CsvLogger>()}, .default_root_dir = folder / "run"},
          {{.every_n_steps = 2}});
  EXPECT_THAT(test::read_text(folder / "run/metrics.csv"), HasSubstr("update_ratio/last.weight"));
  const std::string metrics = test::read_text(folder / "run/metrics.jsonl");
  EXPECT_THAT(metrics, HasSubstr("\"lost_updates/first.weight\":"));
  const std::string report = test::read_text(folder / "run/report.html");
  EXPECT_THAT(report, HasSubstr("<h2>Layers</h2>"));
  EXPECT_THAT(report, HasSubstr("<h3>Lost updates <small>"));
  EXPECT_THAT(report, Not(HasSubstr("<h3>update_ratio/last.weight")));
}

}  // namespace
}  // namespace halftone::layer_statistics_test
