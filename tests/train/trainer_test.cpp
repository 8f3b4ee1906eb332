// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/data.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "halftone/core/log.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/nn/linear.h"
#include "halftone/optim/adamw.h"
#include "halftone/optim/clip.h"
#include "halftone/train/early_stopping.h"
#include "halftone/train/learning_rate_monitor.h"
#include "halftone/train/model_checkpoint.h"
#include "halftone/train/network_state.h"
#include "support/temp_folder.h"

namespace halftone::trainer_test {
namespace {

using test::TempFolder;
using testing::ElementsAre;
using testing::HasSubstr;

using OptimizersOf = std::function<std::vector<OptimizerSetup>(torch::nn::Module&)>;

std::vector<OptimizerSetup> sgd(torch::nn::Module& module) {
  return {std::make_shared<torch::optim::SGD>(module.parameters(),
                                              torch::optim::SGDOptions(0.05).momentum(0.9))};
}

/// A regression that can be learnt: two layers, with dropout between them where it is asked for.
class Regression : public TrainingModule<> {
 public:
  explicit Regression(OptimizersOf optimizers = sgd, double dropout = 0.0)
      : optimizers_(std::move(optimizers)),
        hidden_(register_module("hidden", torch::nn::Linear(8, 16))),
        dropout_(register_module("dropout", torch::nn::Dropout(dropout))),
        out_(register_module("out", torch::nn::Linear(16, 1))) {}

  torch::Tensor forward(const torch::Tensor& x) { return out_(dropout_(hidden_(x).tanh())); }

  torch::Tensor training_step(const Batch& batch, std::int64_t index) override {
    indices.push_back(index);
    input_dtype = batch.data.scalar_type();
    const torch::Tensor loss =
        torch::nn::functional::mse_loss(forward(batch.data).to(torch::kFloat), batch.target);
    return index == poisoned_index ? loss * INFINITY : loss;
  }
  void validation_step(const Batch& batch, std::int64_t /*index*/) override {
    EXPECT_FALSE(is_training());
    EXPECT_FALSE(torch::GradMode::is_enabled());
    const torch::Tensor error = forward(batch.data).to(torch::kFloat) - batch.target;
    log("val_loss", error.square().mean(), static_cast<double>(batch.data.size(0)));
    log("val_bias", error.mean(), static_cast<double>(batch.data.size(0)));
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return optimizers_(*this);
  }

  void on_train_epoch_start(std::int64_t epoch) override { epochs.push_back(epoch); }
  void on_train_epoch_end(std::int64_t epoch) override { epochs.push_back(-epoch); }

  std::vector<std::int64_t> indices;
  std::vector<std::int64_t> epochs;  // negative at the end
  std::int64_t poisoned_index = -1;
  torch::ScalarType input_dtype = torch::kDouble;  // as the last step saw it

 private:
  OptimizersOf optimizers_;
  torch::nn::Linear hidden_;
  torch::nn::Dropout dropout_;
  torch::nn::Linear out_;
};

torch::data::Example<> samples(std::int64_t count = 40) {
  torch::manual_seed(1);
  const torch::Tensor x = torch::randn({count, 8});
  return {x, (x.sum(1, /*keepdim=*/true) / 2).tanh()};
}

TensorLoader loader_of(std::int64_t batch_size, bool shuffle = true) {
  return TensorLoader(samples(), {.batch_size = batch_size, .shuffle = shuffle, .seed = 3});
}

std::shared_ptr<Regression> regression(OptimizersOf optimizers = sgd, double dropout = 0.0) {
  torch::manual_seed(7);
  return std::make_shared<Regression>(std::move(optimizers), dropout);
}

struct StepCollector : Callback {
  void on_step_end(Trainer& trainer, const StepMetrics& metrics) override {
    steps.push_back(metrics);
    if (metrics.step == stop_at) trainer.stop();
  }
  std::vector<StepMetrics> steps;
  std::int64_t stop_at = 0;
};

void expect_equal_weights(torch::nn::Module& a, torch::nn::Module& b) {
  const StateDict left = network_state(a);
  const StateDict right = network_state(b);
  ASSERT_EQ(tensor_mismatches(left, right), "");
  for (const auto& [name, tensor] : left.tensors)
    EXPECT_TRUE(tensor.equal(right.tensor(name))) << name;
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const UserError& error) {
    return error.what();
  }
  ADD_FAILURE() << "accepted";
  return "";
}

TEST(Trainer, IsTheLoopThatOneWouldWrite) {
  const auto trained = regression();
  TensorLoader loader = loader_of(8);
  Trainer({.max_epochs = 3, .accelerator = "cpu", .gradient_clip_val = 0.5}).fit(trained, loader);

  const auto by_hand = regression();
  torch::optim::SGD optimizer(by_hand->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
  TensorLoader same = loader_of(8);
  for (int step = 0; step < 15; ++step) {
    optimizer.zero_grad();
    const auto batch = same.next();
    by_hand->training_step(batch, 0).backward();
    clip_grad_norm_(by_hand->parameters(), 0.5);
    optimizer.step();
  }
  expect_equal_weights(*trained, *by_hand);
  EXPECT_THAT(trained->epochs, ElementsAre(1, -1, 2, -2, 3, -3));
}

TEST(Trainer, AccumulatedBatchesEqualTheWholeOne) {
  const auto whole = regression();
  TensorLoader large = loader_of(16);
  Trainer({.max_steps = 4, .accelerator = "cpu"}).fit(whole, large);
  const auto accumulated = regression();
  TensorLoader small = loader_of(8);
  const auto collector = std::make_shared<StepCollector>();
  Trainer({.max_steps = 4,
           .accelerator = "cpu",
           .accumulate_grad_batches = 2,
           .callbacks = {collector}})
      .fit(accumulated, small);
  const StateDict expected = network_state(*whole);
  for (const auto& [name, tensor] : network_state(*accumulated).tensors)
    EXPECT_TRUE(tensor.allclose(expected.tensor(name), 1e-5, 1e-6)) << name;
  EXPECT_EQ(collector->steps.back().step, 4);
}

// guide: accumulate_grad_batches
TEST(Trainer, WhatIsLeftOfAnEpochIsAnUpdateOfItsOwn) {
  const auto module = regression();
  TensorLoader loader = loader_of(8, /*shuffle=*/false);  // five batches
  const auto collector = std::make_shared<StepCollector>();
  Trainer({.max_epochs = 2,
           .accelerator = "cpu",
           .accumulate_grad_batches = 2,
           .callbacks = {collector}})
      .fit(module, loader);
  EXPECT_EQ(collector->steps.size(), 6);
  EXPECT_THAT(module->indices, ElementsAre(0, 1, 2, 3, 4, 0, 1, 2, 3, 4));

  const auto by_hand = regression();
  torch::optim::SGD optimizer(by_hand->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9));
  for (const std::vector<int>& group : {std::vector{0, 1}, {2, 3}, {4}, {0, 1}, {2, 3}, {4}}) {
    optimizer.zero_grad();
    for (const int index : group)
      (by_hand->training_step(loader.batch_at(index), 0) / static_cast<double>(group.size()))
          .backward();
    optimizer.step();
  }
  expect_equal_weights(*module, *by_hand);
}

/// What a training_step() sees.
struct Seen {
  torch::ScalarType weight, product;
  bool int8 = false;
  bool operator==(const Seen&) const = default;
};

Seen seen_in(const std::string& precision) {
  const bool true_half = precision == "16-true", true_bf16 = precision == "bf16-true";
  if (true_half || precision == "16-mixed")
    return {true_half ? torch::kHalf : torch::kFloat, torch::kHalf};
  if (true_bf16 || precision == "bf16-mixed")
    return {true_bf16 ? torch::kBFloat16 : torch::kFloat, torch::kBFloat16};
  return {torch::kFloat, torch::kFloat, precision == "int8-mixed"};
}

/// Two layers, LibTorch's or ours, and what they see.
template <class Layer>
class Recorder : public TrainingModule<> {
 public:
  torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    // The loader's batches are fp32.
    EXPECT_EQ(batch.data.scalar_type(), hidden->weight.scalar_type());
    const torch::Tensor product = hidden(batch.data);
    seen.push_back({hidden->weight.scalar_type(), product.scalar_type(),
                    compute_context().compute == ComputeType::kInt8});
    const torch::Tensor y = out(product.tanh()).to(torch::kFloat);
    return torch::nn::functional::mse_loss(y, batch.target.to(torch::kFloat));
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    const auto options = torch::optim::AdamOptions(0.02).eps(1e-4);  // fp16 has no 1e-8
    return {std::make_shared<torch::optim::Adam>(parameters(), options)};
  }
  Layer hidden = register_module("hidden", Layer(8, 16));
  Layer out = register_module("out", Layer(16, 1));
  std::vector<Seen> seen;
};

template <class Layer>
void expect_to_learn_in(const std::string& precision) {
  torch::manual_seed(7);
  Recorder<Layer> module;
  const auto collector = std::make_shared<StepCollector>();
  Trainer({.max_epochs = 20,
           .precision = precision,
           .accelerator = "cpu",
           .callbacks = {collector},
           .scaler = {.init_scale = 1024.0}})
      .fit(module, TensorLoader(samples(), {.batch_size = 8, .seed = 3}));
  EXPECT_EQ(module.seen.size(), 20 * 5);
  for (const Seen& seen : module.seen) EXPECT_EQ(seen, seen_in(precision));
  EXPECT_LT(collector->steps.back().loss, 0.5 * collector->steps.front().loss);
  const bool scales = precision == "16-true" || precision == "16-mixed";
  EXPECT_EQ(collector->steps.front().scale.has_value(), scales);
}

class EveryPrecision : public testing::TestWithParam<std::string> {};

TEST_P(EveryPrecision, LearnsWithLibTorchsModulesAndOptimizers) {
  if (GetParam() == "int8-mixed")
    EXPECT_THROW(expect_to_learn_in<torch::nn::Linear>(GetParam()), UserError);
  else
    expect_to_learn_in<torch::nn::Linear>(GetParam());
}

TEST_P(EveryPrecision, LearnsWithOurLayers) { expect_to_learn_in<Linear>(GetParam()); }

INSTANTIATE_TEST_SUITE_P(All, EveryPrecision,
                         testing::Values("32-true", "16-mixed", "bf16-mixed", "16-true",
                                         "bf16-true", "int8-mixed"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Trainer, AnOverflowSkipsTheUpdateNamesTheTensorsAndHoldsTheSchedule) {
  for (const std::string precision : {"32-true", "16-mixed"}) {
    const auto module = regression([](torch::nn::Module& network) -> std::vector<OptimizerSetup> {
      return {{std::make_shared<torch::optim::SGD>(network.parameters(), 0.1),
               LrScheduleOptions{.kind = Schedule::kLinear}}};
    });
    module->poisoned_index = 1;
    TensorLoader loader = loader_of(8);
    const auto collector = std::make_shared<StepCollector>();
    Trainer(
        {.max_steps = 4, .precision = precision, .accelerator = "cpu", .callbacks = {collector}})
        .fit(module, loader);
    const StepMetrics& skipped = collector->steps[1];
    EXPECT_TRUE(skipped.skipped);
    EXPECT_THAT(skipped.overflow, testing::Contains("hidden.weight"));
    EXPECT_FALSE(collector->steps[2].skipped);
    EXPECT_EQ(collector->steps[2].lr, skipped.lr);
    EXPECT_LT(collector->steps[3].lr, skipped.lr);
    for (const torch::Tensor& parameter : module->parameters())
      EXPECT_TRUE(parameter.isfinite().all().item<bool>());
  }
}

TEST(Trainer, EndsWhenEveryUpdateOverflows) {
  const auto module = regression();
  module->poisoned_index = 0;
  TensorLoader loader(samples(8), {.batch_size = 8});
  const TempFolder folder;
  Trainer trainer({.max_steps = 100, .accelerator = "cpu", .default_root_dir = folder / "run"});
  EXPECT_THROW(trainer.fit(module, loader), SystemError);
  const std::string metrics = test::read_text(folder / "run" / "metrics.jsonl");
  const std::int64_t skips = GradScalerOptions().max_skips_at_floor;
  EXPECT_EQ(std::count(metrics.begin(), metrics.end(), '\n'), skips)
      << "the step that ends the run has its line, too";
  EXPECT_THAT(metrics, HasSubstr("{\"step\":" + std::to_string(skips) + ","));
}

TEST(Trainer, SeedsTheRandomRoundingOfInt8) {
  struct Line : TrainingModule<> {
    torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
      return (layer(batch.data) - batch.target).square().mean();
    }
    std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
      return {std::make_shared<torch::optim::SGD>(parameters(), 0.1)};
    }
    Linear layer = register_module("layer", Linear(8, 1));
  };
  const auto weight_with = [](std::uint64_t seed) {
    torch::manual_seed(7);
    Line module;
    TensorLoader loader = loader_of(8);
    Trainer({.max_steps = 4, .precision = "int8-mixed", .accelerator = "cpu", .seed = seed})
        .fit(module, loader);
    return module.parameters().front().detach();
  };
  EXPECT_TRUE(weight_with(1).equal(weight_with(1)));
  EXPECT_FALSE(weight_with(1).equal(weight_with(2)));
}

struct ResumeCase {
  std::string name;
  std::string precision;
  OptimizersOf optimizers;
};

class Resume : public testing::TestWithParam<ResumeCase> {};

TEST_P(Resume, GoesOnWithTheSameBits) {
  const TempFolder folder;
  const auto options = [&](const std::string& name, std::int64_t stop_at) {
    const auto stopper = std::make_shared<StepCollector>();
    stopper->stop_at = stop_at;
    return TrainerOptions{.max_epochs = 3,
                          .precision = GetParam().precision,
                          .accelerator = "cpu",
                          .accumulate_grad_batches = 2,
                          .gradient_clip_val = 1.0,
                          .callbacks = {stopper, std::make_shared<EarlyStopping>()},
                          .default_root_dir = folder / name,
                          .scaler = {.init_scale = 4096.0, .growth_interval = 3}};
  };
  const auto straight = regression(GetParam().optimizers, 0.2);
  TensorLoader loader = loader_of(8);
  TensorLoader validation(samples(10), {.batch_size = 4, .shuffle = false});
  torch::manual_seed(11);
  Trainer(options("straight", 0)).fit(straight, loader, validation);

  const auto stopped = regression(GetParam().optimizers, 0.2);
  TensorLoader first = loader_of(8);
  torch::manual_seed(11);
  Trainer(options("parts", 4)).fit(stopped, first, validation);
  const auto resumed = regression(GetParam().optimizers, 0.2);
  TensorLoader second = loader_of(8);
  torch::manual_seed(99);  // the checkpoint's state counts
  Trainer(options("parts", 0)).fit(resumed, second, validation, {.resume = true});

  expect_equal_weights(*straight, *resumed);
  const auto lines = [&](const char* name) {
    std::ifstream file(folder / name / "metrics.jsonl");
    std::vector<std::string> found;
    for (std::string line; std::getline(file, line);) {
      const auto json = nlohmann::json::parse(line);
      const char* key = json.contains("loss") ? "loss" : "val_loss";
      found.push_back(json["step"].dump() + " " + key + " " + json[key].dump());
    }
    return found;
  };
  EXPECT_EQ(lines("straight"), lines("parts"));
  EXPECT_EQ(lines("parts").size(), 9 + 3);
}

INSTANTIATE_TEST_SUITE_P(
    Optimizers, Resume,
    testing::Values(ResumeCase{"Sgd", "32-true", sgd},
                    ResumeCase{
                        "AdamIn16Mixed", "16-mixed",
                        [](torch::nn::Module& network) -> std::vector<OptimizerSetup> {
                          return {{std::make_shared<torch::optim::Adam>(network.parameters(), 0.01),
                                   LrScheduleOptions{.kind = Schedule::kCosine, .warmup = 2}}};
                        }},
                    ResumeCase{"OursInBf16Mixed", "bf16-mixed",
                               [](torch::nn::Module& network) -> std::vector<OptimizerSetup> {
                                 return {std::make_shared<AdamW>(network.parameters())};
                               }},
                    ResumeCase{"TwoOptimizers", "16-mixed",
                               [](torch::nn::Module& network) -> std::vector<OptimizerSetup> {
                                 const auto all = network.parameters();
                                 const auto half = all.begin() + 2;
                                 return {{std::make_shared<AdamW>(
                                              std::vector<torch::Tensor>(all.begin(), half)),
                                          LrScheduleOptions{.kind = Schedule::kOneCycle}},
                                         {std::make_shared<torch::optim::SGD>(
                                             std::vector<torch::Tensor>(half, all.end()), 0.01)}};
                               }}),
    [](const auto& instance) { return instance.param.name; });

TEST(Trainer, ValidatesWithTheMeanOverAllSamples) {
  const auto module = regression(sgd, 0.5);
  TensorLoader validation(samples(10), {.batch_size = 4, .shuffle = false});
  const std::map<std::string, double> values =
      Trainer({.accelerator = "cpu"}).validate(module, validation);
  module->eval();
  const auto data = samples(10);
  const double expected = (module->forward(data.data) - data.target).square().mean().item<double>();
  EXPECT_NEAR(values.at("val_loss"), expected, 1e-6);
  EXPECT_EQ(values.size(), 2);
}

// guide: LearningRateMonitor
TEST(Trainer, StopsEarlyKeepsTheBestAndLogsTheRates) {
  const TempFolder folder;
  const auto module = regression([](torch::nn::Module& network) -> std::vector<OptimizerSetup> {
    return {std::make_shared<torch::optim::SGD>(network.parameters(), 3.0)};  // grows worse
  });
  TensorLoader loader = loader_of(8);
  TensorLoader validation(samples(), {.batch_size = 40, .shuffle = false});
  const auto collector = std::make_shared<StepCollector>();
  Trainer({.max_epochs = 50,
           .accelerator = "cpu",
           .callbacks = {std::make_shared<EarlyStopping>(EarlyStoppingOptions{.patience = 2}),
                         std::make_shared<ModelCheckpoint>(
                             ModelCheckpointOptions{.keep_last = 1, .monitor = "val_loss"}),
                         std::make_shared<LearningRateMonitor>(), collector},
           .default_root_dir = folder / "run"})
      .fit(module, loader, validation);
  EXPECT_LT(collector->steps.size(), 50 * 5);
  EXPECT_EQ(collector->steps.front().logged.at("lr/0"), 3.0);

  double best = INFINITY;
  std::int64_t best_step = 0;
  std::ifstream metrics(folder / "run" / "metrics.jsonl");
  for (std::string line; std::getline(metrics, line);) {
    const auto json = nlohmann::json::parse(line);
    if (!json.contains("val_loss") || json["val_loss"].is_null() || json["val_loss"] >= best)
      continue;
    best = json["val_loss"];
    best_step = json["step"];
  }
  EXPECT_THAT(checkpoint_steps(folder / "run" / "best"), ElementsAre(best_step));
  EXPECT_THAT(checkpoint_steps(folder / "run"), ElementsAre(collector->steps.back().step));
}

TEST(Trainer, TakesLoadersOfLibTorchAndPointers) {
  struct Autoencoder : TrainingModule<std::vector<torch::Tensor>> {
    Autoencoder() { layer = register_module("layer", torch::nn::Linear(8, 8)); }
    torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
      const torch::Tensor x = torch::stack(batch);
      log("rows", static_cast<double>(x.size(0)));
      return (layer(x) - x).square().mean();
    }
    std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
      return {std::make_shared<torch::optim::SGD>(parameters(), 0.1)};
    }
    torch::nn::Linear layer{nullptr};
  };
  struct Rows : torch::data::datasets::Dataset<Rows, torch::Tensor> {
    torch::Tensor get(size_t index) override { return x[static_cast<std::int64_t>(index)]; }
    torch::optional<size_t> size() const override { return x.size(0); }
    torch::Tensor x = samples().data;
  };
  auto loader = torch::data::make_data_loader<torch::data::samplers::SequentialSampler>(
      Rows(), torch::data::DataLoaderOptions(16));
  const auto collector = std::make_shared<StepCollector>();
  Autoencoder module;
  Trainer({.max_epochs = 2, .accelerator = "cpu", .callbacks = {collector}}).fit(module, loader);
  ASSERT_EQ(collector->steps.size(), 6);  // 16, 16, 8, twice
  EXPECT_EQ(collector->steps[5].logged.at("rows"), 8.0);
  EXPECT_EQ(collector->steps[3].epoch, 2);
  EXPECT_LT(collector->steps[5].loss, collector->steps[0].loss);
}

TEST(Trainer, ClipsByValueAndStillNamesWhatOverflowed) {
  const auto module = regression([](torch::nn::Module& network) -> std::vector<OptimizerSetup> {
    return {std::make_shared<torch::optim::SGD>(network.parameters(), 1.0)};
  });
  const torch::Tensor before = module->parameters().front().clone();
  TensorLoader loader = loader_of(8);
  const auto collector = std::make_shared<StepCollector>();
  module->poisoned_index = 1;
  Trainer({.max_steps = 2,
           .accelerator = "cpu",
           .gradient_clip_val = 1e-3,
           .gradient_clip_algorithm = "value",
           .callbacks = {collector}})
      .fit(module, loader);
  EXPECT_LE((module->parameters().front() - before).abs().max().item<double>(), 1.0001e-3);
  EXPECT_THAT(collector->steps[1].overflow, testing::Contains("hidden.weight"));
}

TEST(Trainer, KeepsNamedModulesInFp32) {
  const auto dtype_with = [](std::vector<std::string> keep) {
    struct Probe : TrainingModule<> {
      Probe() { layer = register_module("layer", torch::nn::Linear(8, 1)); }
      torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
        const torch::Tensor y = layer(batch.data);
        seen = y.scalar_type();
        return y.square().mean();
      }
      std::vector<OptimizerSetup> configure_optimizers(
          const OptimizerContext& /*context*/) override {
        return {std::make_shared<torch::optim::SGD>(parameters(), 0.1)};
      }
      torch::nn::Linear layer{nullptr};
      torch::ScalarType seen = torch::kDouble;
    } probe;
    TensorLoader loader = loader_of(8);
    Trainer({.max_steps = 1,
             .precision = "bf16-mixed",
             .accelerator = "cpu",
             .keep_fp32 = std::move(keep)})
        .fit(probe, loader);
    return probe.seen;
  };
  EXPECT_EQ(dtype_with({}), torch::kBFloat16);
  EXPECT_EQ(dtype_with({"lay"}), torch::kFloat);
  EXPECT_EQ(dtype_with({"type:Linear"}), torch::kFloat);
  EXPECT_THAT(error_of([&] { dtype_with({"nothing"}); }), HasSubstr("nothing"));
}

TEST(Trainer, Int8LeavesNoLayerInFp32InSilence) {
  struct Mixed : TrainingModule<> {
    explicit Mixed(bool ours) {
      if (ours) first = register_module("first", Linear(8, 8));
      second = register_module("second", torch::nn::Linear(8, 1));
    }
    torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
      const torch::Tensor hidden = first ? first(batch.data).tanh() : batch.data;
      return (second(hidden) - batch.target).square().mean();
    }
    std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
      return {std::make_shared<torch::optim::SGD>(parameters(), 0.1)};
    }
    Linear first{nullptr};
    torch::nn::Linear second{nullptr};
  };
  const auto train = [](bool ours) {
    Mixed module(ours);
    TensorLoader loader = loader_of(8);
    const auto collector = std::make_shared<StepCollector>();
    Trainer({.max_epochs = 8,
             .precision = "int8-mixed",
             .accelerator = "cpu",
             .callbacks = {collector}})
        .fit(module, loader);
    return collector->steps.back().loss / collector->steps.front().loss;
  };
  std::vector<std::string> warnings;
  set_log_sink([&](LogLevel level, const std::string& message) {
    if (level == LogLevel::kWarning) warnings.push_back(message);
  });
  EXPECT_LT(train(true), 0.7);
  set_log_sink({});
  EXPECT_THAT(warnings, ElementsAre(HasSubstr("1 torch::nn::Linear of this module stay in fp32")));
  EXPECT_THAT(error_of([&] { train(false); }), HasSubstr("halftone::Linear"));
}

OptimizersOf adamw_in(const std::filesystem::path& folder) {
  return [folder](torch::nn::Module& network) -> std::vector<OptimizerSetup> {
    return {
        std::make_shared<AdamW>(network.parameters(), AdamWOptions{.lr = 0.01, .offload = folder})};
  };
}

TEST(Trainer, OffloadsTheStatesOfItsAdamW) {
  const TempFolder disk;
  const auto train = [](const OptimizersOf& optimizers, const std::string& offload) {
    const auto module = regression(optimizers);
    const auto steps = std::make_shared<StepCollector>();
    Trainer trainer({.max_steps = 5, .callbacks = {steps}, .memory = {.offload = offload}});
    trainer.fit(module, loader_of(8));
    EXPECT_EQ(steps->steps.back().states_mib == 0.0, !offload.empty());
    return module;
  };
  expect_equal_weights(*train(adamw_in(disk.path()), disk.path()), *train(adamw_in({}), ""));
  EXPECT_TRUE(std::filesystem::is_empty(disk.path()));
  EXPECT_THAT(error_of([&] { train(sgd, disk.path()); }),
              HasSubstr("an optimizer of another kind"));
  EXPECT_THAT(error_of([&] { train(adamw_in({}), disk.path()); }),
              HasSubstr("or train with no offload"));
}

TEST(Trainer, WarnsOfAWarmupThatItsRunDoesNotEnd) {
  const auto warnings_of = [](TrainerOptions options) {
    std::vector<std::string> warnings;
    set_log_sink([&](LogLevel level, const std::string& message) {
      if (level == LogLevel::kWarning) warnings.push_back(message);
    });
    const auto module = regression([](torch::nn::Module& network) -> std::vector<OptimizerSetup> {
      return {{std::make_shared<torch::optim::SGD>(network.parameters(), 0.1),
               LrScheduleOptions{.kind = Schedule::kConstant, .warmup = 5}}};
    });
    options.accelerator = "cpu";
    Trainer(std::move(options)).fit(module, loader_of(8));  // five batches
    set_log_sink({});
    return warnings;
  };
  EXPECT_THAT(warnings_of({.max_steps = 6}), testing::IsEmpty());
  EXPECT_THAT(warnings_of({.max_epochs = 2}), testing::IsEmpty());
  const auto says = [](const std::string& steps) {
    return ElementsAre(HasSubstr("the warm-up takes 5 steps, but the run has " + steps));
  };
  EXPECT_THAT(warnings_of({.max_steps = 5}), says("5"));
  EXPECT_THAT(warnings_of({.max_epochs = 1}), says("5"));
  EXPECT_THAT(warnings_of({.max_time = 1e-9}), says("1"));
  EXPECT_THAT(warnings_of({.max_steps = 100, .max_time = 1e-9}), says("1"));
}

TEST(Trainer, RefusesWhatItCannotDo) {
  const auto make = [](TrainerOptions options) {
    return error_of([&] { const Trainer trainer(std::move(options)); });
  };
  EXPECT_THAT(make({.precision = "8-mixed"}), HasSubstr("32-true"));
  EXPECT_THAT(make({.devices = 2}),
              HasSubstr("expected 2 processes, one for each of devices = 2, got 1"));
  EXPECT_THAT(make({.max_steps = 0}), HasSubstr("max_steps"));
  EXPECT_THAT(make({.accumulate_grad_batches = 0}), HasSubstr("accumulate_grad_batches"));
  EXPECT_THAT(make({.gradient_clip_algorithm = "nrm"}), HasSubstr("\"norm\" or \"value\""));
  EXPECT_THAT(make({.accelerator = "tpu"}), HasSubstr("tpu"));
  EXPECT_THAT(make({.loss_average = "batches"}), HasSubstr("tokens, micro-batches"));

  const TempFolder folder;
  TensorLoader loader = loader_of(8);
  const auto fit = [&](TrainerOptions options, const FitOptions& how = {}) {
    options.accelerator = "cpu";
    options.max_steps = 1;
    Trainer(std::move(options)).fit(regression(), loader, how);
  };
  EXPECT_THAT(error_of([&] { fit({}, {.resume = true}); }), HasSubstr("default_root_dir"));
  EXPECT_THAT(error_of([&] { fit({.callbacks = {std::make_shared<ModelCheckpoint>()}}); }),
              HasSubstr("default_root_dir"));
  fit({.default_root_dir = folder / "run"});
  EXPECT_THAT(error_of([&] { fit({.default_root_dir = folder / "run"}); }), HasSubstr("exists"));
  fit({.default_root_dir = folder / "run", .overwrite = true});
  EXPECT_THAT(error_of([&] { fit({.keep_fp32 = {"hidden"}}); }), HasSubstr("mixed precision"));

  Trainer epochs({.max_epochs = 1, .accelerator = "cpu"});
  EXPECT_THROW(epochs.loop(), c10::Error);
}

}  // namespace
}  // namespace halftone::trainer_test
