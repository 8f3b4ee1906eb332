// SPDX-License-Identifier: Apache-2.0
// Callbacks in a run: what the monitors make of the values of validation, and what a checkpoint
// holds of the callbacks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <array>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <functional>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/train/callback.h"
#include "halftone/train/early_stopping.h"
#include "halftone/train/model_checkpoint.h"
#include "halftone/train/network_state.h"
#include "halftone/train/trainer.h"
#include "halftone/train/training_cost.h"
#include "support/temp_folder.h"

namespace halftone::callbacks_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::TempFolder;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::array<double, 3> kNotFinite = {NAN, INFINITY, -INFINITY};

/// A line through data. Validation n logs `values`[n - 1] as "val_loss", the last one for good.
class Line : public TrainingModule<> {
 public:
  explicit Line(std::vector<double> values = {1.0}) : values_(std::move(values)) {}

  torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    ++steps;
    return (line_(batch.data) - batch.target).square().mean();
  }
  void validation_step(const Batch& /*batch*/, std::int64_t /*index*/) override {
    log("val_loss", values_[std::min(validations++, values_.size() - 1)]);
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.05)};
  }
  void on_train_epoch_start(std::int64_t epoch) override { epochs.push_back(epoch); }
  void on_train_epoch_end(std::int64_t epoch) override { epochs.push_back(-epoch); }

  std::int64_t steps = 0;
  std::size_t validations = 0;
  std::vector<std::int64_t> epochs;  // negative at the end

 private:
  std::vector<double> values_;
  torch::nn::Linear line_ = register_module("line", torch::nn::Linear(4, 1));
};

TensorLoader loader_of(std::int64_t samples, std::int64_t batch_size) {
  torch::manual_seed(1);
  const torch::Tensor x = torch::randn({samples, 4});
  return TensorLoader({x, x.sum(1, /*keepdim=*/true)}, {.batch_size = batch_size, .seed = 3});
}

/// The mean of the weights over all steps so far, as a user would write it.
class Ema : public Callback {
 public:
  void on_step_end(Trainer& trainer, const StepMetrics& /*metrics*/) override {
    const torch::Tensor weight =
        trainer.loop().optimizers().front().optimizer->param_groups().front().params().front();
    mean = mean.defined() ? 0.5 * mean + 0.5 * weight.detach() : weight.detach().clone();
    ++updates;
  }
  void on_epoch_end(Trainer& /*trainer*/, std::int64_t /*epoch*/) override { ++epochs; }

  std::string state_key() const override { return "ema"; }
  StateDict state_dict() const override {
    StateDict state;
    if (mean.defined()) state.tensors["mean"] = mean;
    state.values = {{"updates", updates}, {"epochs", epochs}};
    return state;
  }
  void load_state_dict(const StateDict& state) override {
    mean = state.tensor("mean");
    updates = state.get<std::int64_t>("updates");
    epochs = state.get<std::int64_t>("epochs");
  }

  torch::Tensor mean;
  std::int64_t updates = 0;
  std::int64_t epochs = 0;
};

/// Calls `act` after each step.
struct AfterStep : Callback {
  explicit AfterStep(std::function<void(Trainer&, std::int64_t step)> todo)
      : act(std::move(todo)) {}
  void on_step_end(Trainer& trainer, const StepMetrics& metrics) override {
    act(trainer, metrics.step);
  }
  std::function<void(Trainer&, std::int64_t step)> act;
};

class Callbacks : public testing::Test {
 protected:
  Callbacks() {
    set_log_sink([this](LogLevel level, const std::string& message) {
      (level == LogLevel::kWarning ? warnings_ : notes_).push_back(message);
    });
  }
  ~Callbacks() override { set_log_sink({}); }

  using List = std::vector<std::shared_ptr<Callback>>;

  TrainerOptions options(List callbacks, std::int64_t max_epochs = 8) const {
    return {.max_epochs = max_epochs,
            .accelerator = "cpu",
            .callbacks = std::move(callbacks),
            .default_root_dir = folder_ / "run",
            .num_sanity_val_steps = 0};
  }

  /// Epochs of `batches` steps, with a validation after each.
  static void fit(Line& module, const TrainerOptions& options, const FitOptions& how = {},
                  std::int64_t batches = 2) {
    TensorLoader train = loader_of(4 * batches, 4);
    TensorLoader validation = loader_of(4, 4);
    Trainer(options).fit(module, train, validation, how);
  }

  static std::shared_ptr<EarlyStopping> early_stopping(EarlyStoppingOptions options = {}) {
    return std::make_shared<EarlyStopping>(std::move(options));
  }
  static std::shared_ptr<ModelCheckpoint> keep_best() {
    return std::make_shared<ModelCheckpoint>(ModelCheckpointOptions{.monitor = "val_loss"});
  }

  TempFolder folder_;
  std::vector<std::string> notes_;
  std::vector<std::string> warnings_;
};

TEST_F(Callbacks, AValueThatIsNotFiniteEndsTheRunAtOnce) {
  for (const double value : kNotFinite) {
    notes_.clear();
    Line module({3.0, value});
    TrainerOptions trainer = options({early_stopping()});
    trainer.overwrite = true;
    fit(module, trainer);
    EXPECT_EQ(module.validations, 2);
    EXPECT_THAT(notes_,
                ElementsAre(HasSubstr("which is not finite; the best was 3: the run ends")));
  }
}

TEST_F(Callbacks, AValueThatIsNotFiniteIsNeverBetter) {
  const auto validations_with = [&](std::vector<double> values, MonitorMode mode) {
    Line module(std::move(values));
    TrainerOptions trainer =
        options({early_stopping({.mode = mode, .patience = 2, .check_finite = false})}, 20);
    trainer.overwrite = true;
    fit(module, trainer);
    return module.validations;
  };
  for (const MonitorMode mode : {MonitorMode::kMin, MonitorMode::kMax})
    for (const double value : kNotFinite) {
      EXPECT_EQ(validations_with({value}, mode), 2) << value;
      EXPECT_EQ(validations_with({2.0, value}, mode), 3) << value;
      EXPECT_EQ(validations_with({value, 2.0, value}, mode), 4) << value;
    }
  EXPECT_EQ(validations_with({1.0}, MonitorMode::kMin), 3);
  EXPECT_THAT(notes_, testing::Contains(HasSubstr("has not been finite for 2 validations")));
  EXPECT_THAT(notes_, testing::Contains(HasSubstr("not been better than 2 for 2 validations")));
}

TEST_F(Callbacks, TheBestCheckpointIsThatOfAFiniteValue) {
  Line module({INFINITY, 3.0, NAN, 2.0, INFINITY, -INFINITY});
  fit(module, options({keep_best()}));
  EXPECT_THAT(checkpoint_steps(folder_ / "run/best"), ElementsAre(8));
  EXPECT_THAT(warnings_, testing::Contains(HasSubstr("which is never the best")));
}

TEST_F(Callbacks, WithoutAFiniteValueThereIsNoBestCheckpoint) {
  Line module({INFINITY});
  fit(module, options({keep_best()}));
  EXPECT_FALSE(fs::exists(folder_ / "run/best"));
  EXPECT_THAT(checkpoint_steps(folder_ / "run").back(), 16);
}

TEST_F(Callbacks, AMonitorNeedsValidationData) {
  const auto error_with = [&](std::shared_ptr<Callback> callback) {
    Line module;
    TensorLoader loader = loader_of(8, 4);
    const std::string error =
        message_of<UserError>([&] { Trainer(options({std::move(callback)})).fit(module, loader); });
    EXPECT_EQ(module.steps, 0);
    EXPECT_FALSE(fs::exists(folder_ / "run"));
    return error;
  };
  EXPECT_THAT(error_with(early_stopping()),
              testing::AllOf(HasSubstr("early_stopping: expected validation data"),
                             HasSubstr("'val_loss'")));
  EXPECT_THAT(error_with(keep_best()), HasSubstr("model_checkpoint: expected validation data"));

  Line module;
  TensorLoader loader = loader_of(8, 4);
  Trainer(options({early_stopping({.strict = false})})).fit(module, loader);
  EXPECT_EQ(module.steps, 16);
  EXPECT_THAT(warnings_, testing::Contains(HasSubstr("early_stopping: expected validation data")));
}

TEST_F(Callbacks, AMonitorNeedsItsValue) {
  Line module;
  EXPECT_THAT(message_of<UserError>(
                  [&] { fit(module, options({early_stopping({.monitor = "accuracy"})})); }),
              testing::AllOf(HasSubstr("'accuracy'"), HasSubstr("there is val_loss")));
  Line other;
  TrainerOptions trainer = options({early_stopping({.monitor = "accuracy", .strict = false})});
  trainer.overwrite = true;
  fit(other, trainer);
  EXPECT_EQ(other.steps, 16);
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("validation does not log 'accuracy'")));
}

TEST_F(Callbacks, AMonitorSaysThatThereWasNoValidation) {
  TrainerOptions trainer = options({early_stopping(), keep_best()});
  trainer.val_check_interval = 100;
  Line module;
  fit(module, trainer);
  EXPECT_THAT(warnings_, ElementsAre(HasSubstr("early_stopping: the run ended before its first"),
                                     HasSubstr("model_checkpoint: the run ended before")));
}

TEST_F(Callbacks, AnEpochBeginsOnceAlsoWhenItIsResumed) {
  Line first;
  Line second;
  TrainerOptions trainer = options({}, 3);
  trainer.max_steps = 6;
  fit(first, trainer, {}, 4);
  EXPECT_THAT(first.epochs, ElementsAre(1, -1, 2));
  trainer.max_steps.reset();
  fit(second, trainer, {.resume = true}, 4);
  EXPECT_THAT(second.epochs, ElementsAre(-2, 3, -3));
}

TEST_F(Callbacks, ARunThatWasStoppedEarlyStaysSo) {
  Line first;
  fit(first, options({early_stopping({.patience = 2})}));
  EXPECT_EQ(first.steps, 6);
  notes_.clear();
  Line second;
  const auto of_a_program = early_stopping({.patience = 2, .patience_name = "early_stop"});
  fit(second, options({of_a_program}), {.resume = true});
  EXPECT_EQ(second.steps, 0);
  EXPECT_THAT(notes_, ElementsAre(testing::AllOf(HasSubstr("early stopping has ended this run"),
                                                 HasSubstr("raise early_stop to go on"))));
  EXPECT_TRUE(of_a_program->ends_run());
  Line third;
  fit(third, options({early_stopping({.patience = 4})}), {.resume = true});
  EXPECT_EQ(third.steps, 4);
}

TEST_F(Callbacks, ARunThatANanEndedStaysSo) {
  Line first({1.0, NAN});
  fit(first, options({early_stopping()}));
  Line second;
  fit(second, options({early_stopping()}), {.resume = true});
  EXPECT_EQ(second.steps, 0);
  EXPECT_THAT(notes_.back(), HasSubstr("set check_finite to false to go on"));
  Line third;
  fit(third, options({early_stopping({.patience = 20, .check_finite = false})}), {.resume = true});
  EXPECT_EQ(third.steps, 12);
}

TEST_F(Callbacks, OneThatIsNewInAResumedRunStartsAfresh) {
  Line first;
  fit(first, options({}, 2));
  Line second;
  fit(second, options({early_stopping({.patience = 2})}), {.resume = true});
  EXPECT_EQ(second.validations, 3);
}

TEST_F(Callbacks, TheirStateIsThatOfTheSavedStepInEveryOrder) {
  const auto straight = std::make_shared<Ema>();
  {
    torch::manual_seed(1);
    Line module;
    fit(module, options({straight}));
  }
  for (const bool saves_first : {true, false}) {
    const auto run_with = [&](const std::shared_ptr<Ema>& ema, std::int64_t max_epochs,
                              bool resumes) {
      const auto checkpoint = std::make_shared<ModelCheckpoint>(
          ModelCheckpointOptions{.every_n_steps = 1, .monitor = "val_loss"});
      torch::manual_seed(1);
      Line module;
      TrainerOptions trainer =
          options(saves_first ? List{checkpoint, ema} : List{ema, checkpoint}, max_epochs);
      trainer.overwrite = true;
      fit(module, trainer, {.resume = resumes});
    };
    const auto first = std::make_shared<Ema>();
    run_with(first, 3, false);
    const StateDict best = load_latest_checkpoint(folder_ / "run/best").trainer;
    EXPECT_EQ(best.get<std::int64_t>("callback.ema.updates"), 2) << "validated after step 2";
    EXPECT_EQ(best.get<std::int64_t>("callback.ema.epochs"), 1);
    const auto second = std::make_shared<Ema>();
    run_with(second, 8, true);
    EXPECT_EQ(second->updates, straight->updates);
    EXPECT_EQ(second->epochs, straight->epochs);
    EXPECT_TRUE(second->mean.equal(straight->mean)) << saves_first;
  }
}

TEST_F(Callbacks, WhatTheyDoToTheModelInTheStepIsInItsCheckpoint) {
  const auto scale = [](Trainer& trainer, double factor) {
    const torch::NoGradGuard no_grad;
    trainer.loop().optimizers().front().optimizer->param_groups().front().params().front().mul_(
        factor);
  };
  const auto asks = std::make_shared<AfterStep>([&](Trainer& trainer, std::int64_t step) {
    if (step != 3) return;
    trainer.save_checkpoint(folder_ / "run/mine", {.last = 1});
    trainer.save_checkpoint(folder_ / "run/mine", {.last = 2});
  });
  const auto changes = std::make_shared<AfterStep>([&](Trainer& trainer, std::int64_t step) {
    if (step == 3) scale(trainer, 0.0);
  });
  struct AtTheEnd : Callback {
    void on_fit_end(Trainer& trainer) override { act(trainer); }
    std::function<void(Trainer&)> act;
  };
  const auto at_the_end = std::make_shared<AtTheEnd>();
  at_the_end->act = [&](Trainer& trainer) { scale(trainer, 0.0); };
  Line module;
  fit(module, options({asks, at_the_end, changes}));
  EXPECT_TRUE(
      load_latest_model(folder_ / "run/mine").model.tensor("line.weight").eq(0).all().item<bool>());
  EXPECT_FALSE(
      load_latest_model(folder_ / "run").model.tensor("line.weight").eq(0).any().item<bool>())
      << "the last checkpoint is that of the last step";
  EXPECT_TRUE(module.named_parameters()["line.weight"].eq(0).all().item<bool>());
}

TEST_F(Callbacks, TheSavingOneTellsAfterEachSave) {
  std::vector<std::int64_t> saved;
  const auto checkpoint = std::make_shared<ModelCheckpoint>(
      ModelCheckpointOptions{.every_n_steps = 3,
                             .every_n_epochs = 0,
                             .monitor = "val_loss",
                             .on_saved = [&](const fs::path& run, std::int64_t step) {
                               EXPECT_EQ(run, folder_ / "run");
                               EXPECT_EQ(checkpoint_steps(run).back(), step);
                               saved.push_back(step);
                             }});
  Line module;
  fit(module, options({checkpoint}, 4));
  EXPECT_THAT(saved, ElementsAre(3, 6, 8));
}

TEST_F(Callbacks, ARunThatFailedBeforeItsFirstCheckpointIsStartedAgain) {
  const auto fails = std::make_shared<AfterStep>([](Trainer&, std::int64_t step) {
    if (step == 3) throw SystemError("the power went");
  });
  const auto last_only = [](std::vector<std::shared_ptr<Callback>> more = {}) {
    more.push_back(std::make_shared<ModelCheckpoint>(
        ModelCheckpointOptions{.every_n_steps = 5, .every_n_epochs = 0}));
    return more;
  };
  const FitOptions again{.resume_or_start = true};
  Line first;
  EXPECT_THROW(fit(first, options(last_only({fails})), again), SystemError);
  EXPECT_THAT(checkpoint_steps(folder_ / "run"), IsEmpty());
  EXPECT_THAT(message_of<UserError>([&] { fit(first, options(last_only())); }),
              HasSubstr("exists"));
  EXPECT_THAT(message_of<UserError>([&] { fit(first, options(last_only()), {.resume = true}); }),
              HasSubstr("has no checkpoint"));

  Line second;
  const auto stops = std::make_shared<AfterStep>([](Trainer& trainer, std::int64_t step) {
    if (step == 7) trainer.stop();
  });
  fit(second, options(last_only({stops})), again);
  EXPECT_EQ(second.steps, 7) << "from the start";
  Line third;
  fit(third, options(last_only()), again);
  EXPECT_EQ(third.steps, 9) << "from where it was";
  Line fourth;
  fit(fourth, options(last_only()), again);
  EXPECT_EQ(fourth.steps, 0) << "it is done";
}

/// Computes for a tenth of a second of the process's own time for each batch.
struct Worker : Callback {
  void on_before_backward(Trainer& /*trainer*/, const torch::Tensor& /*loss*/) override {
    const std::clock_t begin = std::clock();
    while (std::clock() - begin < CLOCKS_PER_SEC / 10) continue;
  }
};

TEST(TrainingCost, CountsTheStepsOfEachFit) {
  const auto cost = std::make_shared<TrainingCost>();
  EXPECT_EQ(cost->step_seconds(), 0.0);
  TensorLoader data = loader_of(8, 2);
  Trainer trainer({.max_steps = 1,
                   .accelerator = "cpu",
                   .accumulate_grad_batches = 2,
                   .callbacks = {std::make_shared<Worker>(), cost}});
  for (int fit = 0; fit < 2; ++fit) {
    Line line;
    trainer.fit(line, data);
    EXPECT_EQ(line.steps, 2);
    EXPECT_EQ(cost->steps(), 1);
    EXPECT_GE(cost->step_cpu_seconds(), 0.2);  // of both batches
  }
  EXPECT_GT(cost->step_seconds(), 0.0);
  EXPECT_GT(cost->peak_bytes(), 0U);
}

}  // namespace
}  // namespace halftone::callbacks_test
