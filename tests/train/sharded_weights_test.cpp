// SPDX-License-Identifier: Apache-2.0
// Trainings in which each process keeps a part of the weights, beside those in which it has all.
#include "halftone/train/sharded_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/functional/loss.h>

#include <algorithm>

#include "halftone/data/tensor_loader.h"
#include "halftone/dist/joined_processes.h"
#include "halftone/inspect/operation_observer_impl.h"
#include "halftone/nn/linear.h"
#include "halftone/nn/recompute.h"
#include "halftone/optim/adamw.h"
#include "halftone/run/checkpoint.h"
#include "halftone/train/layer_statistics.h"
#include "halftone/train/trainer.h"
#include "halftone/train/weight_averaging.h"
#include "support/message_of.h"
#include "support/processes.h"

namespace halftone::sharded_weights_test {
namespace {

namespace fs = std::filesystem;
using test::in_processes;
using test::shared_folder;
using testing::HasSubstr;
using torch::Tensor;

constexpr std::int64_t kWidth = 96;
constexpr std::size_t kBlocks = 3;

/// A layer before and behind blocks that are computed again. Each weight is a bucket.
class Blocks : public TrainingModule<> {
 public:
  enum class Use { kInBlocks, kWithoutRecompute, kElsewhereToo, kOnlyInTraining, kInAnyOrder };
  explicit Blocks(Use use = Use::kInBlocks) : use_(use) {
    torch::manual_seed(7);
    in_ = register_module("in", Linear(8, kWidth));
    for (std::size_t i = 0; i < kBlocks; ++i)
      blocks_.push_back(register_module("block" + std::to_string(i), Linear(kWidth, kWidth)));
    out_ = register_module("out", Linear(kWidth, 1));
  }

  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    Tensor x = in_(batch.data);
    if (use_ == Use::kInAnyOrder && is_training() && ++passes_ == 3)
      std::swap(blocks_.front(), blocks_.back());
    for (Linear& block : blocks_) {
      const auto run = [&block](const std::vector<Tensor>& in) {
        return std::vector<Tensor>{in[0] + block(in[0].tanh())};
      };
      const bool again =
          use_ != Use::kWithoutRecompute && (use_ != Use::kOnlyInTraining || is_training());
      x = again ? recompute(run, {x}, block->parameters())[0] : run({x})[0];
    }
    if (use_ == Use::kElsewhereToo) x = x + blocks_[0](x);
    const Tensor prediction = out_(x).to(torch::kFloat);
    note_resident();
    return torch::nn::functional::mse_loss(prediction, batch.target.to(torch::kFloat));
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    std::vector<std::pair<std::string, Tensor>> all;
    for (const auto& item : named_parameters()) all.emplace_back(item.key(), item.value());
    AdamWOptions options = context.adamw({.lr = 0.01});
    options.bucket_bytes = 4 * kWidth;
    return {std::make_shared<AdamW>(all, options)};
  }

  /// The share of the blocks' weights that are not zero behind a forward pass, at its most. The
  /// last block's stay for the backward pass, and are left out.
  double most_resident = 0;

 private:
  void note_resident() {
    const Unobserved looking;
    double share = 0;
    for (std::size_t i = 0; i + 1 < kBlocks; ++i)
      share += blocks_[i]->weight.detach().ne(0).to(torch::kDouble).mean().item<double>();
    most_resident = std::max(most_resident, share / (kBlocks - 1));
  }

  Use use_;
  int passes_ = 0;
  Linear in_{nullptr}, out_{nullptr};
  std::vector<Linear> blocks_;
};

TensorLoader loader_of(std::int64_t batch_size, std::int64_t samples) {
  torch::manual_seed(1);
  const Tensor x = torch::randn({samples, 8});
  return TensorLoader({x, (x.sum(1, /*keepdim=*/true) / 2).tanh()},
                      {.batch_size = batch_size, .seed = 3});
}

struct Collector : Callback {
  void on_step_end(Trainer& /*trainer*/, const StepMetrics& metrics) override {
    steps.push_back(metrics);
  }
  void on_validation_end(Trainer& /*trainer*/,
                         const std::map<std::string, double>& values) override {
    validations.push_back(values.at("val_loss"));
  }
  std::vector<StepMetrics> steps;
  std::vector<double> validations;
};

struct Trained {
  std::vector<StepMetrics> steps;
  std::vector<double> validations;
  std::map<std::string, Tensor> weights;
  double most_resident = 0;
};

struct Data {
  std::int64_t samples = 46;  // the last step of an epoch has 6, in batches of 2
  std::int64_t validation = 23;
};

Trained train(TrainerOptions options, const Data& data = {}, const FitOptions& how = {}) {
  options.accelerator = "cpu";
  options.gradient_clip_val = 0.5;
  options.memory.recompute = "blocks";
  if (!options.max_epochs) options.max_epochs = 2;
  Blocks module;
  TensorLoader loader = loader_of(2, data.samples), validation = loader_of(5, data.validation);
  const auto collector = std::make_shared<Collector>();
  options.callbacks.push_back(collector);
  Trainer trainer(options);
  trainer.fit(module, loader, validation, how);
  Trained trained{.steps = collector->steps,
                  .validations = collector->validations,
                  .weights = {},
                  .most_resident = module.most_resident};
  for (const auto& item : module.named_parameters())
    trained.weights[item.key()] = item.value().detach().clone();
  return trained;
}

void expect_equal(const Trained& a, const Trained& b, const std::string& what) {
  ASSERT_EQ(a.steps.size(), b.steps.size()) << what;
  for (std::size_t i = 0; i < a.steps.size(); ++i) {
    EXPECT_EQ(a.steps[i].loss, b.steps[i].loss) << what << i;
    if (a.steps[i].skipped && b.steps[i].skipped) continue;  // their norms are no numbers
    EXPECT_EQ(a.steps[i].grad_norm, b.steps[i].grad_norm) << what << i;
  }
  EXPECT_EQ(a.validations, b.validations) << what;
  for (const auto& [name, weight] : a.weights)
    EXPECT_TRUE(weight.equal(b.weights.at(name))) << what << name;
}

using Names = std::vector<const char*>;
void expect_same_as_shared_gradients(int processes, const Names& precisions,
                                     const Data& data = {}) {
  in_processes(processes, [&] {
    for (const char* precision : precisions) {
      TrainerOptions options{.precision = precision};
      options.shard = "gradients";
      const Trained gradients = train(options, data);
      options.shard = "parameters";
      const Trained parameters = train(options, data);
      expect_equal(gradients, parameters, precision);
    }
  });
}

TEST(ShardedWeights, HaveTheBitsOfSharedGradientsInTwo) {
  expect_same_as_shared_gradients(2, {"32-true", "int8-mixed"}, {.samples = 22});
}
// Some have no batch in the last step of an epoch, and none in the last turn of a validation.
TEST(ShardedWeights, HaveTheBitsOfSharedGradientsInFour) {
  expect_same_as_shared_gradients(4, {"bf16-mixed", "16-mixed", "fp8-mixed", "bf16-true"},
                                  {.samples = 22});
}
// Some have none in the first step, nor in any validation.
TEST(ShardedWeights, HaveThemWhereSomeNeverHaveABatch) {
  expect_same_as_shared_gradients(4, {"32-true", "16-mixed"}, {.samples = 6, .validation = 4});
}

TEST(ShardedWeights, AddUpSeveralBatches) {
  in_processes(2, [] {
    TrainerOptions options;
    options.accumulate_grad_batches = 3;
    options.memory.memory = "lean";
    options.precision = "bf16-mixed";
    options.shard = "gradients";
    const Trained gradients = train(options);
    options.shard = "parameters";
    expect_equal(gradients, train(options), "");
  });
}

// One process has each element, and no other, but while its block runs.
TEST(ShardedWeights, AreThereInPartBetweenBlocks) {
  in_processes(4, [] {
    TrainerOptions options;
    options.max_steps = 2;
    options.shard = "parameters";
    options.num_sanity_val_steps = 0;
    const double own = train(options).most_resident;
    double all = 0;
    for (const auto& one : all_gather_numbers(*joined_processes(), {own})) all += one[0];
    EXPECT_NEAR(all, 1.0, 0.01);
  });
}

TEST(ShardedWeights, AreWholeInCheckpointsFromWhichEachSharingGoesOn) {
  in_processes(2, [] {
    TrainerOptions options;
    options.shard = "gradients";
    const Trained whole = train(options);
    options.shard = "parameters";
    for (const char* rest : {"parameters", "gradients"}) {
      options.default_root_dir = shared_folder() / rest;
      options.max_steps = 7;
      options.shard = "parameters";
      train(options);
      options.max_steps.reset();
      options.shard = rest;
      const Trained resumed = train(options, {}, {.resume = true});
      EXPECT_EQ(resumed.steps.size(), whole.steps.size() - 7);
      EXPECT_EQ(resumed.validations.back(), whole.validations.back());
      for (const auto& [name, weight] : whole.weights)
        EXPECT_TRUE(weight.equal(resumed.weights.at(name))) << rest << name;
      const StateDict saved = load_latest_checkpoint(options.default_root_dir).model;
      for (const auto& [name, weight] : whole.weights)
        EXPECT_TRUE(weight.equal(saved.tensor(name))) << rest << name;
    }
  });
}

TEST(ShardedWeights, AreRefusedToWhatReadsThemAsAWhole) {
  in_processes(2, [] {
    const auto refusal = [](const char* shard, std::shared_ptr<Callback> callback) {
      TrainerOptions options;
      options.shard = shard;
      options.max_steps = 1;
      if (callback) options.callbacks.push_back(std::move(callback));
      return test::message_of<UserError>([&] { train(options); });
    };
    EXPECT_THAT(refusal("parameters", std::make_shared<Ema>()),
                HasSubstr("shard parameters leaves each process a part of the weights, and "
                          "halftone::Ema reads all of them; leave it out, or choose shard"));
    EXPECT_THAT(refusal("gradients", std::make_shared<LayerStatistics>()),
                HasSubstr("halftone::LayerStatistics reads all of them; leave it out, or choose "
                          "shard optimizer"));
    TrainerOptions allowed{.max_steps = 1, .shard = "gradients"};
    allowed.callbacks.push_back(std::make_shared<Ema>());
    train(allowed);
  });
}

void expect_refusal(Blocks::Use use, const std::string& what) {
  in_processes(2, [&] {
    Blocks module(use);
    TensorLoader loader = loader_of(2, 20);
    Trainer trainer({.max_epochs = 1, .accelerator = "cpu", .shard = "parameters"});
    EXPECT_THAT(test::message_of<UserError>([&] { trainer.fit(module, loader, loader); }),
                HasSubstr(what));
  });
}
TEST(ShardedWeights, NeedBlocks) {
  expect_refusal(Blocks::Use::kWithoutRecompute,
                 "no part of this module is run through halftone::recompute()");
}
TEST(ShardedWeights, NeedBlocksInEvaluationsToo) {
  expect_refusal(Blocks::Use::kOnlyInTraining, "when its weights were not in memory");
}
TEST(ShardedWeights, NeedTheSameBlocksInEachPass) {
  expect_refusal(Blocks::Use::kInAnyOrder, "runs the same blocks in the same order");
}

// All weights are there for the checkpoint alone.
TEST(ShardedWeights, CanBeEvaluatedWhenACheckpointIsSaved) {
  in_processes(2, [] {
    struct Validating : Callback {
      void on_checkpoint_saved(Trainer& trainer, const fs::path& /*folder*/) override {
        if (trainer.has_all_weights()) return;  // behind the last step
        TensorLoader loader = loader_of(5, 23);
        losses.push_back(trainer.validate(*module, loader).at("val_loss"));
      }
      void on_validation_end(Trainer& /*trainer*/,
                             const std::map<std::string, double>& values) override {
        expected.push_back(values.at("val_loss"));
      }
      Blocks* module = nullptr;
      std::vector<double> losses, expected;
    };
    Blocks module;
    const auto validating = std::make_shared<Validating>();
    validating->module = &module;
    TensorLoader loader = loader_of(2, 46), validation = loader_of(5, 23);
    Trainer trainer({.max_epochs = 2,
                     .accelerator = "cpu",
                     .shard = "parameters",
                     .callbacks = {validating},
                     .default_root_dir = shared_folder() / "run"});
    trainer.fit(module, loader, validation);
    ASSERT_FALSE(validating->losses.empty());
    EXPECT_EQ(validating->losses.front(), validating->expected.front());
  });
}

TEST(ShardedWeights, AreNeverReadWhenTheyAreNotThere) {
  expect_refusal(Blocks::Use::kElsewhereToo, "has read 'block0.weight' when its weights were not");
}

TEST(ShardedWeights, NeedBlocksThatAreComputedAgain) {
  TrainerOptions options{.shard = "parameters"};
  options.memory.recompute = "none";
  EXPECT_THAT(test::message_of<UserError>([&] { const Trainer trainer(options); }),
              HasSubstr("recompute none; leave recompute out"));
}

}  // namespace
}  // namespace halftone::sharded_weights_test
