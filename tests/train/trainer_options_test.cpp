// SPDX-License-Identifier: Apache-2.0
// The habits of a Trainer's user: short runs to try things out, aliases, what is said of mistakes.
#include "halftone/train/trainer_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/data.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <set>

#include "halftone/core/error.h"
#include "halftone/core/random.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/train/early_stopping.h"
#include "halftone/train/network_state.h"
#include "halftone/train/progress_bar.h"
#include "halftone/train/trainer.h"
#include "support/temp_folder.h"

namespace halftone::trainer_options_test {
namespace {

using test::message_of;
using test::TempFolder;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using torch::Tensor;

/// Remembers the batches that it saw.
struct Line : TrainingModule<> {
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    trained.push_back(batch.data[0][0].item<double>());
    return (line(batch.data) - batch.target).square().mean();
  }
  void validation_step(const Batch& batch, std::int64_t /*index*/) override {
    validated.push_back(batch.data[0][0].item<double>());
    dropped = dropped || torch::rand({1}).item<double>() < 0;  // draws a random number
    log("val_loss", (line(batch.data) - batch.target).square().mean());
  }
  void test_step(const Batch& batch, std::int64_t /*index*/) override {
    ++tested;
    log("test_loss", (line(batch.data) - batch.target).square().mean());
  }
  Tensor predict_step(const Batch& batch, std::int64_t /*index*/) override {
    return line(batch.data);
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.05)};
  }
  torch::nn::Linear line = register_module("line", torch::nn::Linear(4, 1));
  std::vector<double> trained, validated;
  std::int64_t tested = 0;
  bool dropped = false;
};

std::shared_ptr<Line> line() {
  torch::manual_seed(7);
  return std::make_shared<Line>();
}

torch::data::Example<> samples(std::int64_t count) {
  torch::manual_seed(1);
  const Tensor x = torch::randn({count, 4});
  return {x, x.sum(1, /*keepdim=*/true)};
}

TensorLoader loader_of(std::int64_t batches, bool shuffle = true) {
  return TensorLoader(samples(4 * batches), {.batch_size = 4, .shuffle = shuffle, .seed = 3});
}

TrainerOptions with(TrainerOptions options) {
  options.accelerator = "cpu";
  return options;
}

// guide: fast_dev_run
TEST(TrainerOptions, AFastDevRunWritesAndStopsNothing) {
  const TempFolder folder;
  const auto module = line();
  Trainer trainer(with({.max_epochs = 50,
                        .callbacks = {std::make_shared<EarlyStopping>(
                            EarlyStoppingOptions{.monitor = "nothing of the kind"})},
                        .default_root_dir = folder / "run",
                        .val_check_interval = 1,
                        .fast_dev_run = true}));
  TensorLoader loader = loader_of(5);
  trainer.fit(module, loader, loader);
  EXPECT_EQ(module->trained.size(), 1U);
  EXPECT_EQ(module->validated.size(), 1U);
  trainer.test(module, loader);
  EXPECT_EQ(module->tested, 1);
  EXPECT_EQ(trainer.predict(module, loader).size(), 1U);
  trainer.fit(module, loader, {.resume_or_start = true});  // there is no folder to resume
  EXPECT_FALSE(std::filesystem::exists(folder / "run"));
}

// guide: limit_train_batches and its like
TEST(TrainerOptions, LimitsAreNumbersOrShares) {
  TensorLoader loader = loader_of(5);
  for (const EpochPart limit : {EpochPart(2), EpochPart(0.5)}) {
    const auto module = line();
    Trainer trainer(with({.max_epochs = 3,
                          .num_sanity_val_steps = 0,
                          .limit_train_batches = limit,
                          .limit_val_batches = limit,
                          .limit_test_batches = limit,
                          .limit_predict_batches = limit}));
    trainer.fit(module, loader, loader);
    EXPECT_EQ(module->trained.size(), 6U);
    EXPECT_EQ(module->validated.size(), 6U);
    trainer.test(module, loader);
    EXPECT_EQ(module->tested, 2);
    EXPECT_EQ(trainer.predict(module, loader).size(), 2U);
    const std::set<double> distinct(module->trained.begin(), module->trained.end());
    EXPECT_GT(distinct.size(), 3U) << "each epoch is shuffled anew";
  }
  const auto module = line();
  EXPECT_THAT(
      message_of<UserError>(
          [&] { Trainer(with({.limit_train_batches = 0.1})).fit(module, loader); }),
      HasSubstr("limit_train_batches = 0.1 of 5 batches is less than one; expected at least 0.2"));
  EXPECT_THAT(message_of<UserError>([] { Trainer(with({.limit_val_batches = 1.5})); }),
              HasSubstr("a share from 0.0 to 1.0, got 1.5"));
  // A loader that does not tell its length takes a number, and no share.
  auto dataset =
      torch::data::datasets::TensorDataset(torch::randn({20, 4}))
          .map(torch::data::transforms::Lambda<torch::data::TensorExample, torch::data::Example<>>(
              [](torch::data::TensorExample one) {
                return torch::data::Example<>(one.data, one.data.sum().reshape({1}));
              }))
          .map(torch::data::transforms::Stack<>());
  auto untold = torch::data::make_data_loader(std::move(dataset), 4);
  Trainer(with({.max_epochs = 2, .limit_train_batches = 3})).fit(module, untold);
  EXPECT_EQ(module->trained.size(), 6U);
  EXPECT_THAT(message_of<UserError>(
                  [&] { Trainer(with({.limit_train_batches = 0.5})).fit(module, untold); }),
              HasSubstr("does not tell how many batches"));
}

TEST(TrainerOptions, LimitedRunsResumeToTheSameBits) {
  for (const EpochPart overfit : {EpochPart(0.0), EpochPart(2)}) {
    const TempFolder folder;
    TensorLoader loader = loader_of(7);
    const auto options = [&](const char* name, std::int64_t steps) {
      return with({.max_steps = steps,
                   .default_root_dir = folder / name,
                   .limit_train_batches = 3,
                   .overfit_batches = overfit});
    };
    const auto straight = line();
    Trainer(options("straight", 11)).fit(straight, loader);
    Trainer(options("parts", 4)).fit(line(), loader);
    const auto resumed = line();
    Trainer(options("parts", 11)).fit(resumed, loader, {.resume = true});
    EXPECT_TRUE(straight->line->weight.equal(resumed->line->weight));
    EXPECT_EQ(std::vector<double>(straight->trained.begin() + 4, straight->trained.end()),
              resumed->trained);
  }
}

// guide: overfit_batches
TEST(TrainerOptions, OverfitsOnTheSameBatches) {
  const auto module = line();
  TensorLoader loader = loader_of(5);
  Trainer(with({.max_epochs = 4, .num_sanity_val_steps = 0, .overfit_batches = 2}))
      .fit(module, loader, loader);
  ASSERT_EQ(module->trained.size(), 8U);
  for (std::size_t i = 2; i < 8; ++i) EXPECT_EQ(module->trained[i], module->trained[i - 2]);
  EXPECT_EQ(module->validated.size(), 8U);

  // Of a loader by epochs that shuffles, too: also after a resume in the middle.
  const TempFolder folder;
  const auto torch_loader = [] {
    auto dataset =
        torch::data::datasets::TensorDataset(torch::arange(20.0).reshape({20, 1}).repeat({1, 4}))
            .map(
                torch::data::transforms::Lambda<torch::data::TensorExample, torch::data::Example<>>(
                    [](torch::data::TensorExample one) {
                      return torch::data::Example<>(one.data, one.data.sum().reshape({1}) * 0.0);
                    }))
            .map(torch::data::transforms::Stack<>());
    return torch::data::make_data_loader<torch::data::samplers::RandomSampler>(
        std::move(dataset), torch::data::DataLoaderOptions(4));
  };
  const auto fit = [&](std::int64_t steps, bool resume) {
    const auto fitted = line();
    auto data = torch_loader();
    Trainer(with({.max_steps = steps, .default_root_dir = folder / "run", .overfit_batches = 2}))
        .fit(fitted, data, {.resume = resume});
    return fitted->trained;
  };
  const std::vector<double> first = fit(3, false);
  EXPECT_EQ(first[0], first[2]);
  EXPECT_NE(first[0], first[1]);
  EXPECT_THAT(fit(6, true), ElementsAre(first[1], first[0], first[1]));
}

// guide: num_sanity_val_steps
TEST(TrainerOptions, TriesValidationOutWithoutATrace) {
  struct Dropping : Line {
    Tensor training_step(const Batch& batch, std::int64_t index) override {
      return Line::training_step({torch::dropout(batch.data, 0.5, true), batch.target}, index);
    }
  };
  const auto fit = [](std::int64_t steps) {
    torch::manual_seed(7);
    const auto module = std::make_shared<Dropping>();
    TensorLoader train = loader_of(5), validation = loader_of(3, false);
    Trainer(with({.max_epochs = 1, .num_sanity_val_steps = steps})).fit(module, train, validation);
    return module;
  };
  EXPECT_EQ(fit(0)->validated.size(), 3U);
  EXPECT_EQ(fit(2)->validated.size(), 5U);
  EXPECT_EQ(fit(-1)->validated.size(), 6U);
  EXPECT_TRUE(fit(0)->line->weight.equal(fit(2)->line->weight));
  struct Bad : Line {
    void validation_step(const Batch& /*batch*/, std::int64_t /*index*/) override {
      throw UserError("a fault in validation_step");
    }
  } bad;
  TensorLoader loader = loader_of(5);
  EXPECT_THROW(Trainer(with({.max_epochs = 1})).fit(bad, loader, loader), UserError);
  EXPECT_TRUE(bad.trained.empty()) << "it shows before the training";
}

// guide: val_check_interval; check_val_every_n_epoch
TEST(TrainerOptions, ValidatesByStepsOrBySharesOfAnEpoch) {
  const auto validations = [](TrainerOptions options) {
    const auto module = line();
    TensorLoader train = loader_of(5), validation = loader_of(1);
    options.max_epochs = 4;
    options.num_sanity_val_steps = 0;
    Trainer(with(options)).fit(module, train, validation);
    return module->validated.size();
  };
  EXPECT_EQ(validations({}), 4U);
  EXPECT_EQ(validations({.val_check_interval = 1}), 20U);
  EXPECT_EQ(validations({.val_check_interval = 1.0}), 4U);
  EXPECT_EQ(validations({.val_check_interval = 7}), 2U);
  EXPECT_EQ(validations({.val_check_interval = 0.5}), 8U);
  EXPECT_EQ(validations({.check_val_every_n_epoch = 2}), 2U);
  EXPECT_EQ(validations({.accumulate_grad_batches = 2, .val_check_interval = 0.5}), 8U);
  EXPECT_EQ(validations({.limit_val_batches = 0}), 0U);
  EXPECT_EQ(validations({.val_check_interval = 7, .val_at_end = true}), 3U);
  EXPECT_EQ(validations({.val_check_interval = 10, .val_at_end = true}), 2U) << "the last one once";
  EXPECT_EQ(validations({.val_check_interval = 100, .val_at_end = true}), 1U);
  EXPECT_THAT(message_of<UserError>(
                  [] { Trainer(with({.val_check_interval = 5, .check_val_every_n_epoch = 2})); }),
              HasSubstr("check_val_every_n_epoch goes with validation by epochs"));
  EXPECT_THAT(message_of<UserError>([] { Trainer(with({.val_check_interval = 0})); }),
              HasSubstr("val_check_interval"));
}

// guide: precision="16", "bf16", "32"; accelerator="gpu"
TEST(TrainerOptions, KnowsLightningsNames) {
  EXPECT_EQ(Trainer(with({.precision = "16"})).policy().name, "16-mixed");
  EXPECT_EQ(Trainer(with({.precision = "bf16"})).policy().name, "bf16-mixed");
  EXPECT_EQ(Trainer(with({.precision = "32"})).policy().name, "32-true");
  EXPECT_THAT(message_of<UserError>([] { Trainer(with({.precision = "64-true"})); }),
              HasSubstr("32-true"));
  EXPECT_EQ(resolved_options({.accelerator = "gpu"}).accelerator, "cuda");
}

// guide: detect_anomaly
TEST(TrainerOptions, DetectsTheFirstAnomalyAndNamesItsOperation) {
  struct Dividing : Line {
    explicit Dividing(std::int64_t the_bad_index) : bad_index(the_bad_index) {}
    Tensor training_step(const Batch& batch, std::int64_t index) override {
      const Tensor loss = Line::training_step(batch, index);
      return index == bad_index ? torch::log(loss * 0.0 - 1.0) : loss;
    }
    std::int64_t bad_index;
  };
  TensorLoader loader = loader_of(5);
  for (const std::string precision : {"32-true", "16-mixed"}) {
    Dividing module(2);
    const std::string message = message_of<SystemError>([&] {
      Trainer(with({.max_epochs = 1,
                    .precision = precision,
                    .detect_anomaly = true,
                    .scaler = {.init_scale = 2.0}}))
          .fit(module, loader);
    });
    EXPECT_THAT(message, HasSubstr("the loss of step 3 is nan"));
    EXPECT_THAT(message, HasSubstr("aten::log"));
  }
  // A loss that is finite with a gradient that is not: an overflow to a loss scale, else an
  // anomaly.
  struct Rooted : Line {
    Tensor training_step(const Batch& batch, std::int64_t index) override {
      const Tensor loss = Line::training_step(batch, index);
      return index == 2 ? loss + torch::sqrt((line->weight * 0.0).sum()) : loss;
    }
  };
  Rooted rooted;
  EXPECT_THAT(
      message_of<SystemError>(
          [&] { Trainer(with({.max_epochs = 1, .detect_anomaly = true})).fit(rooted, loader); }),
      AllOf(HasSubstr("in step 3 the gradient of line.weight is not finite"), HasSubstr("sqrt")));
  Rooted scaled;
  EXPECT_NO_THROW(Trainer(with({.max_epochs = 1, .precision = "16-mixed", .detect_anomaly = true}))
                      .fit(scaled, loader));
  Dividing tolerated(2);
  EXPECT_NO_THROW(Trainer(with({.max_epochs = 1})).fit(tolerated, loader));
}

TEST(TrainerOptions, RefusesWhatMakesNoSense) {
  const auto message = [](TrainerOptions options) {
    return message_of<UserError>([&] { Trainer(with(options)); });
  };
  EXPECT_THAT(message({.max_epochs = 0}), HasSubstr("max_epochs to be positive, got 0"));
  EXPECT_THAT(message({.max_time = -1.0}), HasSubstr("max_time"));
  EXPECT_THAT(message({.accumulate_grad_batches = 0}), HasSubstr("accumulate_grad_batches >= 1"));
  EXPECT_THAT(message({.gradient_clip_val = -1.0}), HasSubstr("gradient_clip_val >= 0"));
  EXPECT_THAT(message({.gradient_clip_algorithm = "mean"}), HasSubstr("\"norm\" or \"value\""));
  EXPECT_THAT(message({.log_every_n_steps = 0}), HasSubstr("log_every_n_steps >= 1"));
  EXPECT_THAT(message({.check_val_every_n_epoch = 0}), HasSubstr("check_val_every_n_epoch >= 1"));
  EXPECT_THAT(message({.num_sanity_val_steps = -2}), HasSubstr("num_sanity_val_steps >= -1"));
  EXPECT_THAT(message({.fast_dev_run = -1}), HasSubstr("fast_dev_run >= 0"));
}

// guide: enable_progress_bar
TEST(TrainerOptions, HasAProgressBarWhereItIsWanted) {
  const auto bars = [](std::optional<bool> wanted, bool given = false) {
    TrainerOptions options{.enable_progress_bar = wanted};
    if (given) options.callbacks = {std::make_shared<ProgressBar>()};
    const auto callbacks = resolved_options(options).callbacks;
    return std::count_if(callbacks.begin(), callbacks.end(), [](const auto& callback) {
      return dynamic_cast<const ProgressBar*>(callback.get()) != nullptr;
    });
  };
  EXPECT_EQ(bars(true), 1);
  EXPECT_EQ(bars(true, /*given=*/true), 1);
  EXPECT_EQ(bars(false), 0);
}

// guide: seed_everything
TEST(TrainerOptions, SeedsEverything) {
  EXPECT_EQ(seed_everything(5), 5U);
  const Tensor first = torch::randn({3});
  const int number = std::rand();
  seed_everything(5);
  EXPECT_TRUE(torch::randn({3}).equal(first));
  EXPECT_EQ(std::rand(), number);
}

// guide: several validation loaders
TEST(TrainerOptions, ValidatesOnSeveralLoaders) {
  struct Indexed : Line {
    void validation_step(const Batch& batch, std::int64_t index) override {
      Line::validation_step(batch, index);
      loaders.push_back(dataloader_index());
    }
    void on_validation_loader_end() override {
      log("batches", static_cast<double>(loaders.size()), 1.0);
      ++ended;
    }
    std::size_t ended = 0;
    std::vector<std::size_t> loaders;
  } module;
  TensorLoader train = loader_of(2), first = loader_of(2, false), second = loader_of(1, false);
  Trainer trainer(with({.max_epochs = 1, .num_sanity_val_steps = 0}));
  trainer.fit(module, train, Loaders(first, second));
  EXPECT_THAT(module.loaders, ElementsAre(0, 0, 1));
  EXPECT_EQ(module.ended, 2);
  module.loaders.clear();
  const auto values = trainer.validate(module, Loaders(first, second));
  EXPECT_EQ(values.size(), 4U);
  EXPECT_EQ(values.at("batches/dataloader_idx_0"), 2.0);
  EXPECT_EQ(values.at("batches/dataloader_idx_1"), 3.0);
  EXPECT_EQ(values.at("val_loss/dataloader_idx_0"), trainer.validate(module, first).at("val_loss"));
  EXPECT_EQ(values.at("val_loss/dataloader_idx_1"),
            trainer.validate(module, second).at("val_loss"));
  EXPECT_EQ(trainer.predict(module, Loaders(first, second)).size(), 3U);
  const auto held = std::make_unique<TensorLoader>(loader_of(1, false));
  EXPECT_EQ(trainer.predict(module, Loaders(first, held)).size(), 3U);
}

/// Pairs of views of one thing, and a metric over all of them that no mean of batches gives: how
/// often the nearest other view is the right one.
struct Pairs : TrainingModule<> {
  Pairs() { scale = register_parameter("scale", torch::ones({})); }
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    const Tensor apart = scale * (batch.data - batch.target).square().mean();
    const Tensor size = 0.1 * (scale - 1).square();
    log("apart_loss", apart.detach());
    log("size_loss", size.detach());
    return apart + size;
  }
  void validation_step(const Batch& batch, std::int64_t /*index*/) override {
    left.push_back(batch.data);
    right.push_back(batch.target);
  }
  void test_step(const Batch& batch, std::int64_t index) override { validation_step(batch, index); }
  void on_validation_loader_end() override { log("val_recall", recall(), 1.0); }
  void on_test_loader_end() override { log("test_recall", recall(), 1.0); }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.01)};
  }
  double recall() {
    const Tensor a = torch::cat(std::exchange(left, {})), b = torch::cat(std::exchange(right, {}));
    const Tensor nearest = torch::cdist(a, b).argmin(1);
    return nearest.eq(torch::arange(a.size(0))).to(torch::kDouble).mean().item<double>();
  }
  Tensor scale;
  std::vector<Tensor> left, right;
};

// guide: on_validation_epoch_end
TEST(TrainerOptions, LogsWhatNeedsTheWholeSetAndSeveralLossesByName) {
  // Each view's nearest one in its own batch of two is the right one; over all four it is not.
  const Tensor a = torch::tensor({{0.0F}, {10.0F}, {1.0F}, {11.0F}});
  const Tensor b = torch::tensor({{0.9F}, {10.9F}, {0.2F}, {10.2F}});
  TensorLoader train({a, b}, {.batch_size = 2, .shuffle = false});
  TensorLoader held({a, b}, {.batch_size = 2, .shuffle = false});
  struct Collector : Callback {
    void on_step_end(Trainer& /*trainer*/, const StepMetrics& metrics) override { last = metrics; }
    void on_validation_end(Trainer& /*trainer*/,
                           const std::map<std::string, double>& found) override {
      values = found;
    }
    StepMetrics last;
    std::map<std::string, double> values;
  };
  const auto collector = std::make_shared<Collector>();
  Pairs module;
  Trainer trainer(with({.max_epochs = 1, .callbacks = {collector}}));
  trainer.fit(module, train, held);
  EXPECT_EQ(collector->values.at("val_recall"), 0.0);
  EXPECT_NEAR(collector->last.logged.at("apart_loss") + collector->last.logged.at("size_loss"),
              collector->last.loss, 1e-6);
  EXPECT_EQ(trainer.test(module, held).at("test_recall"), 0.0);
  TensorLoader pairs({a.narrow(0, 0, 2), b.narrow(0, 0, 2)}, {.batch_size = 1, .shuffle = false});
  EXPECT_EQ(trainer.test(module, pairs).at("test_recall"), 1.0);
  EXPECT_TRUE(module.left.empty());
}

// guide: errors
TEST(TrainerOptions, ErrorsAreOneSentenceWithoutFrames) {
  struct Wrong : Line {
    Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
      return line(batch.data.narrow(1, 0, 3)).mean();
    }
  } module;
  TensorLoader loader = loader_of(2);
  try {
    Trainer(with({.max_epochs = 1})).fit(module, loader);
    FAIL() << "accepted";
  } catch (const std::exception& error) {
    const std::string what = error.what();
    EXPECT_THAT(what, HasSubstr("shapes cannot be multiplied"));
    EXPECT_EQ(what.find("frame #"), std::string::npos) << what;
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
  }
  try {
    HALFTONE_CHECK(false, "[unit] expected ", 3);
  } catch (const std::exception& error) {
    EXPECT_STREQ(error.what(), "[unit] expected 3");
  }
}

}  // namespace
}  // namespace halftone::trainer_options_test
