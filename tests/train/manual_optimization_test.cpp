// SPDX-License-Identifier: Apache-2.0
// Modules that step their optimizers themselves, against loops written by hand.
#include "halftone/train/manual_optimization.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/autograd.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <algorithm>
#include <map>

#include "halftone/core/error.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/nn/linear.h"
#include "halftone/optim/adamw.h"
#include "halftone/optim/clip.h"
#include "halftone/train/network_state.h"
#include "halftone/train/trainer.h"
#include "support/temp_folder.h"

namespace halftone::manual_optimization_test {
namespace {

using test::message_of;
using test::TempFolder;
using testing::HasSubstr;
using torch::Tensor;

Tensor hinge(const Tensor& score) { return torch::relu(1.0 - score).mean(); }

torch::data::Example<> samples(std::int64_t count = 24) {
  torch::manual_seed(1);
  const Tensor x = torch::randn({count, 4});
  return {x, x.sum(1, /*keepdim=*/true).tanh()};
}

TensorLoader loader_of(std::int64_t batch_size = 4) {
  return TensorLoader(samples(), {.batch_size = batch_size, .seed = 3});
}

/// A critic that tells targets from a generator's outputs, both tiny.
struct Pair : TrainingModule<> {
  explicit Pair(bool ours = false) : ours_(ours) {}

  bool automatic_optimization() const override { return false; }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    const auto adam = [&](torch::nn::Module& part) -> std::shared_ptr<torch::optim::Optimizer> {
      if (ours_) return std::make_shared<AdamW>(part.parameters(), context.adamw({.lr = 0.01}));
      return std::make_shared<torch::optim::Adam>(part.parameters(),
                                                  torch::optim::AdamOptions(0.01).eps(1e-4));
    };
    return {adam(*critic), adam(*generator)};
  }
  Tensor critic_loss(const Batch& batch) {
    const Tensor fake = generator(batch.data).detach();
    return hinge(critic(batch.target)) + hinge(-critic(fake));
  }
  Tensor generator_loss(const Batch& batch) { return -critic(generator(batch.data)).mean(); }

  Tensor training_step(const Batch& batch, std::int64_t index) override {
    if (index == poisoned) log("poisoned", 1.0);
    Tensor loss = critic_loss(batch);
    if (index == poisoned) loss = loss * INFINITY;
    optimizer(0).zero_grad();
    manual_backward(loss);
    results.push_back(optimizer(0).step({.value = 0.5}));

    const auto only = optimizer(1).toggled();
    frozen_seen = frozen_seen && !critic->weight.requires_grad();
    optimizer(1).zero_grad();
    manual_backward(generator_loss(batch));
    results.push_back(optimizer(1).step());
    return loss;
  }
  void validation_step(const Batch& batch, std::int64_t /*index*/) override {
    log("val_loss", generator_loss(batch));
  }

  torch::nn::Linear critic = register_module("critic", torch::nn::Linear(1, 1));
  torch::nn::Linear generator = register_module("generator", torch::nn::Linear(4, 1));
  std::vector<StepResult> results;
  std::int64_t poisoned = -1;
  bool frozen_seen = true;

 private:
  bool ours_;
};

std::shared_ptr<Pair> pair(bool ours = false) {
  torch::manual_seed(7);
  return std::make_shared<Pair>(ours);
}

void expect_equal_weights(torch::nn::Module& a, torch::nn::Module& b) {
  const StateDict left = network_state(a);
  for (const auto& [name, tensor] : network_state(b).tensors)
    EXPECT_TRUE(tensor.equal(left.tensor(name))) << name;
}

TEST(ManualOptimization, IsTheLoopThatOneWouldWrite) {
  const auto trained = pair();
  Trainer({.max_epochs = 2, .accelerator = "cpu"}).fit(trained, loader_of());
  EXPECT_TRUE(trained->frozen_seen);
  EXPECT_TRUE(trained->critic->weight.requires_grad());

  const auto by_hand = pair();
  torch::optim::Adam critic(by_hand->critic->parameters(),
                            torch::optim::AdamOptions(0.01).eps(1e-4));
  torch::optim::Adam generator(by_hand->generator->parameters(),
                               torch::optim::AdamOptions(0.01).eps(1e-4));
  TensorLoader loader = loader_of();
  for (int step = 0; step < 12; ++step) {
    const auto batch = loader.next();
    critic.zero_grad();
    by_hand->critic_loss(batch).backward();
    clip_grad_norm_(by_hand->critic->parameters(), 0.5);
    critic.step();
    generator.zero_grad();
    by_hand->generator_loss(batch).backward();
    generator.step();
  }
  expect_equal_weights(*trained, *by_hand);
}

class ManualInEveryRecipe : public testing::TestWithParam<std::string> {};

TEST_P(ManualInEveryRecipe, LearnsAndResumesToTheSameBits) {
  for (const bool ours : {false, true}) {
    const auto options = [&](const TempFolder& folder) {
      return TrainerOptions{.max_epochs = 3,
                            .precision = GetParam(),
                            .accelerator = "cpu",
                            .default_root_dir = folder / "run",
                            .scaler = {.init_scale = 65536.0, .growth_interval = 3}};
    };
    const TempFolder straight_folder;
    const TempFolder parts_folder;
    const auto straight = pair(ours);
    TensorLoader loader = loader_of();
    Trainer(options(straight_folder)).fit(straight, loader);

    struct StopAt : Callback {
      void on_step_end(Trainer& trainer, const StepMetrics& metrics) override {
        if (metrics.step == 7) trainer.stop();
      }
    };
    TrainerOptions first = options(parts_folder);
    first.callbacks = {std::make_shared<StopAt>()};
    Trainer(first).fit(pair(ours), loader);
    const auto resumed = pair(ours);
    Trainer(options(parts_folder)).fit(resumed, loader, {.resume = true});
    expect_equal_weights(*straight, *resumed);
    EXPECT_FALSE(straight->critic->weight.equal(pair(ours)->critic->weight));
  }
}

INSTANTIATE_TEST_SUITE_P(All, ManualInEveryRecipe,
                         testing::Values("32-true", "16-mixed", "bf16-mixed", "16-true",
                                         "bf16-true"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

struct Metrics : Callback {
  void on_step_end(Trainer& /*trainer*/, const StepMetrics& metrics) override {
    steps.push_back(metrics);
  }
  std::vector<StepMetrics> steps;
};

TEST(ManualOptimization, AnOverflowSkipsTheOptimizerThatHasIt) {
  const auto module = pair();
  module->poisoned = 2;
  const auto metrics = std::make_shared<Metrics>();
  Trainer({.max_steps = 5,
           .precision = "16-mixed",
           .accelerator = "cpu",
           .callbacks = {metrics},
           .scaler = {.init_scale = 1024.0}})
      .fit(module, loader_of());
  EXPECT_FALSE(module->results[4].stepped);
  EXPECT_TRUE(module->results[5].stepped) << "the generator's gradients were finite";
  EXPECT_TRUE(metrics->steps[2].skipped);
  EXPECT_THAT(metrics->steps[2].overflow, testing::Contains("critic.weight"));
  EXPECT_EQ(metrics->steps[2].scale, 1024.0);
  EXPECT_EQ(metrics->steps[3].scale, 512.0);
  EXPECT_FALSE(metrics->steps[3].skipped);
}

/// Steps every other batch; gradients of two batches add up.
struct Accumulating : TrainingModule<> {
  explicit Accumulating(bool ours_, std::int64_t steps_per_batch_ = 0)
      : ours(ours_), steps_per_batch(steps_per_batch_) {}
  bool automatic_optimization() const override { return false; }
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    const Tensor loss = (line(batch.data) - batch.target).square().mean();
    if (steps_per_batch > 0) {
      for (std::int64_t i = 0; i < steps_per_batch; ++i) {
        optimizer().zero_grad();
        manual_backward((line(batch.data) - batch.target).square().mean());
        optimizer().step();
      }
      return loss;
    }
    manual_backward(loss / 2);
    if (++batches % 2 == 0) {
      optimizer().step();
      optimizer().zero_grad();
    }
    return loss;
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    if (ours) return {std::make_shared<AdamW>(parameters(), context.adamw({.lr = 0.05}))};
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.05)};
  }
  StateDict extra_state() const override {
    StateDict state;
    state.values["batches"] = batches;
    return state;
  }
  void load_extra_state(const StateDict& state) override {
    batches = state.get<std::int64_t>("batches");
  }
  torch::nn::Linear line = register_module("line", torch::nn::Linear(4, 1));
  torch::nn::Linear unused = register_module("unused", torch::nn::Linear(2, 1));
  bool ours;
  std::int64_t steps_per_batch;
  std::int64_t batches = 0;
};

TEST(ManualOptimization, GradientsThatWaitAreResumedToTheSameBits) {
  for (const std::string precision : {"32-true", "16-mixed"})
    for (const bool ours : {false, true}) {
      const auto module = [&] {
        torch::manual_seed(7);
        return std::make_shared<Accumulating>(ours);
      };
      const TempFolder folder;
      const auto options = [&](const char* name, std::int64_t steps) {
        return TrainerOptions{.max_steps = steps,
                              .precision = precision,
                              .accelerator = "cpu",
                              .default_root_dir = folder / name,
                              .scaler = {.init_scale = 256.0, .growth_interval = 1}};
      };
      const auto straight = module();
      Trainer(options("straight", 8)).fit(straight, loader_of());
      Trainer(options("parts", 3)).fit(module(), loader_of());
      const auto resumed = module();
      Trainer(options("parts", 8)).fit(resumed, loader_of(), {.resume = true});
      expect_equal_weights(*straight, *resumed);
      EXPECT_TRUE(resumed->unused->weight.equal(module()->unused->weight))
          << "weights without gradients do not decay";
    }
}

// The scale grows after each update, so a gradient that was computed before the move must follow.
TEST(ManualOptimization, GradientsThatWaitFollowTheScale) {
  struct Two : TrainingModule<> {
    bool automatic_optimization() const override { return false; }
    Tensor training_step(const Batch& batch, std::int64_t index) override {
      manual_backward((waits(batch.data) - batch.target).square().mean() / 3);
      optimizer(0).zero_grad();
      manual_backward((steps(batch.data) - batch.target).square().mean());
      optimizer(0).step();  // moves the scale at the end of the batch
      if (index % 3 == 2) {
        optimizer(1).step();
        optimizer(1).zero_grad();
      }
      return {};
    }
    std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
      return {std::make_shared<torch::optim::SGD>(steps->parameters(), 0.05),
              std::make_shared<torch::optim::SGD>(waits->parameters(), 0.05)};
    }
    torch::nn::Linear steps = register_module("steps", torch::nn::Linear(4, 1));
    torch::nn::Linear waits = register_module("waits", torch::nn::Linear(4, 1));
  };
  const auto trained_with = [](double growth) {
    torch::manual_seed(7);
    const auto module = std::make_shared<Two>();
    Trainer({.max_steps = 6,
             .precision = "16-mixed",
             .accelerator = "cpu",
             .scaler = {.init_scale = 64.0, .growth_factor = growth, .growth_interval = 1}})
        .fit(module, loader_of());
    return module->waits->weight.detach().clone();
  };
  const Tensor growing = trained_with(2.0);
  const Tensor steady = trained_with(1.0 + 1e-9);
  EXPECT_LT((growing - steady).abs().max().item<double>(), 2e-4);
  torch::manual_seed(7);
  EXPECT_GT((growing - std::make_shared<Two>()->waits->weight).abs().max().item<double>(), 1e-2);
}

TEST(ManualOptimization, SeveralStepsInABatchSeeTheNewWeights) {
  for (const std::string precision : {"32-true", "bf16-mixed", "16-mixed"}) {
    torch::manual_seed(7);
    const auto module = std::make_shared<Accumulating>(false, /*steps_per_batch=*/3);
    Trainer({.max_steps = 4,
             .precision = precision,
             .accelerator = "cpu",
             .scaler = {.init_scale = 128.0}})
        .fit(module, loader_of());
    torch::manual_seed(7);
    Accumulating by_hand(false);
    torch::optim::SGD optimizer(by_hand.parameters(), 0.05);
    TensorLoader loader = loader_of();
    for (int step = 0; step < 4; ++step) {
      const auto batch = loader.next();
      for (int i = 0; i < 3; ++i) {
        optimizer.zero_grad();
        (by_hand.line(batch.data) - batch.target).square().mean().backward();
        optimizer.step();
      }
    }
    const double tolerance = precision == "32-true" ? 0.0 : 4e-3;
    EXPECT_LE((module->line->weight - by_hand.line->weight).abs().max().item<double>(), tolerance)
        << precision;
  }
}

/// A penalty on the gradient of the output by the input, as WGAN-GP has it.
template <class Layer>
struct Penalised : TrainingModule<> {
  bool automatic_optimization() const override { return false; }
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    const Tensor at = batch.data.detach().clone().requires_grad_();
    const Tensor score = last(torch::tanh(first(at)));
    const Tensor slope = gradients(score, {at}).front();
    const Tensor loss = score.square().mean() + (slope.norm(2, 1) - 1).square().mean();
    optimizer().zero_grad();
    manual_backward(loss);
    optimizer().step();
    return loss;
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.05)};
  }
  Layer first = register_module("first", Layer(4, 8));
  Layer last = register_module("last", Layer(8, 1));
};

template <class Layer>
void expect_penalty_learns(const std::string& precision, double tolerance) {
  torch::manual_seed(7);
  const auto module = std::make_shared<Penalised<Layer>>();
  std::map<std::string, Tensor> weights;  // of a copy that learns by hand
  for (const auto& item : module->named_parameters())
    weights[item.key()] = item.value().detach().clone().requires_grad_();
  Trainer({.max_steps = 5,
           .precision = precision,
           .accelerator = "cpu",
           .scaler = {.init_scale = 1024.0}})
      .fit(module, loader_of());

  const auto layer = [&](const std::string& name, const Tensor& x) {
    const Tensor y = x.matmul(weights.at(name + ".weight").t());
    return weights.contains(name + ".bias") ? y + weights.at(name + ".bias") : y;
  };
  std::vector<Tensor> all;
  for (const auto& [name, weight] : weights) all.push_back(weight);
  torch::optim::SGD optimizer(all, 0.05);
  TensorLoader loader = loader_of();
  for (int step = 0; step < 5; ++step) {
    const Tensor at = loader.next().data.requires_grad_();
    const Tensor score = layer("last", torch::tanh(layer("first", at)));
    const Tensor slope = torch::autograd::grad({score.sum()}, {at}, {}, true, true).front();
    optimizer.zero_grad();
    (score.square().mean() + (slope.norm(2, 1) - 1).square().mean()).backward();
    optimizer.step();
  }
  for (const auto& item : module->named_parameters())
    EXPECT_LE((weights.at(item.key()) - item.value()).abs().max().template item<double>(),
              tolerance)
        << item.key() << " in " << precision;
}

TEST(ManualOptimization, PenalisesGradients) {
  expect_penalty_learns<torch::nn::Linear>("32-true", 1e-7);
  expect_penalty_learns<torch::nn::Linear>("bf16-mixed", 4e-3);
  expect_penalty_learns<torch::nn::Linear>("16-mixed", 1e-3);
  expect_penalty_learns<Linear>("32-true", 1e-6);
  EXPECT_THAT(message_of<c10::Error>([] { expect_penalty_learns<Linear>("bf16-mixed", 4e-3); }),
              HasSubstr("can be differentiated once"));
}

TEST(ManualOptimization, NamesTheOperationThatMadeTheFirstInf) {
  struct Overflowing : Accumulating {
    using Accumulating::Accumulating;
    Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
      const Tensor loss = line(batch.data * 1e3).exp().mean();
      optimizer().zero_grad();
      manual_backward(loss);
      optimizer().step();
      return loss;
    }
  };
  const auto module = std::make_shared<Overflowing>(false);
  EXPECT_THAT(
      message_of<SystemError>([&] {
        Trainer({.max_steps = 50, .accelerator = "cpu", .scaler = {.max_skips_at_floor = 2}})
            .fit(module, loader_of());
      }),
      HasSubstr("aten::exp"));
}

TEST(ManualOptimization, SaysWhatItKnowsOfAnAnomalyWithoutABackwardPass) {
  struct Silent : Accumulating {
    using Accumulating::Accumulating;
    Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
      return torch::log(batch.data.sum() * 0.0 - 1.0);
    }
  };
  EXPECT_THAT(message_of<SystemError>([] {
                Trainer({.max_steps = 2, .accelerator = "cpu", .detect_anomaly = true})
                    .fit(std::make_shared<Silent>(false), loader_of());
              }),
              HasSubstr("the loss of step 1 is nan"));
}

TEST(ManualOptimization, RefusesWhatTheModuleDoesItself) {
  const auto message = [](TrainerOptions options) {
    options.accelerator = "cpu";
    return message_of<UserError>([&] { Trainer(options).fit(pair(), loader_of()); });
  };
  EXPECT_THAT(message({.accumulate_grad_batches = 2}), HasSubstr("accumulate_grad_batches"));
  EXPECT_THAT(message({.gradient_clip_val = 1.0}), HasSubstr("optimizer(0).step("));
  struct NoValidation : Accumulating {
    NoValidation() : Accumulating(false) {}
  };
  EXPECT_THAT(message_of<UserError>([&] {
                Trainer({.max_steps = 1, .accelerator = "cpu"})
                    .fit(std::make_shared<NoValidation>(), loader_of(), loader_of());
              }),
              HasSubstr("override validation_step()"));
}

TEST(ManualOptimization, IsOnlyForTrainingSteps) {
  struct Automatic : Accumulating {
    Automatic() : Accumulating(false) {}
    bool automatic_optimization() const override { return true; }
  };
  EXPECT_THAT(message_of<c10::Error>([] {
                Trainer({.max_steps = 1, .accelerator = "cpu"})
                    .fit(std::make_shared<Automatic>(), loader_of());
              }),
              HasSubstr("automatic_optimization() returns false"));
}

}  // namespace
}  // namespace halftone::manual_optimization_test
