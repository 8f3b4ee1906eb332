// SPDX-License-Identifier: Apache-2.0
// A trained checkpoint is used: loaded by the Trainer and without it, tested, predicted with, and
// the start of another model.
#include "halftone/train/saved_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <filesystem>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/io/safetensors.h"
#include "halftone/train/hyper_parameters.h"
#include "halftone/train/loaded_model.h"
#include "halftone/train/model_checkpoint.h"
#include "halftone/train/network_state.h"
#include "halftone/train/trainer.h"
#include "support/temp_folder.h"

namespace halftone::saved_model_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::TempFolder;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using torch::Tensor;

/// Two layers. Validation n logs `values`[n].
struct Net : TrainingModule<torch::data::Example<>, std::pair<Tensor, std::int64_t>> {
  explicit Net(std::int64_t width = 8, std::vector<double> the_values = {1.0})
      : hidden(register_module("hidden", torch::nn::Linear(4, width))),
        out(register_module("out", torch::nn::Linear(width, 1))),
        values(std::move(the_values)) {
    save_hyper_parameters({{"width", width}, {"activation", "tanh"}, {"scale", 0.5}, {"on", true}});
  }
  Tensor forward(const Tensor& x) { return out(hidden(x).tanh()); }
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    return (forward(batch.data) - batch.target).square().mean();
  }
  void validation_step(const Batch& /*batch*/, std::int64_t /*index*/) override {
    log("val_loss", values[std::min(validations, values.size() - 1)]);
  }
  void on_validation_end() override { ++validations; }
  Prediction predict_step(const Batch& batch, std::int64_t index) override {
    EXPECT_FALSE(is_training());
    EXPECT_FALSE(torch::GradMode::is_enabled());
    return {forward(batch.data), index};
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.05)};
  }
  torch::nn::Linear hidden, out;
  std::vector<double> values;
  std::size_t validations = 0;
};

TensorLoader loader() {
  torch::manual_seed(1);
  const Tensor x = torch::randn({16, 4});
  return TensorLoader({x, x.sum(1, true).tanh()}, {.batch_size = 8, .shuffle = false});
}

class SavedModels : public testing::Test {
 protected:
  /// Four epochs of two steps; the second epoch is the best.
  SavedModels() : trained_(8, {0.5, 0.2, 0.3, 0.4}) {
    set_log_sink(
        [this](LogLevel /*level*/, const std::string& message) { notes_.push_back(message); });
    ModelCheckpointOptions options{.keep_last = 4, .monitor = "val_loss", .save_top_k = 3};
    trainer_options_ = {.max_epochs = 4,
                        .accelerator = "cpu",
                        .callbacks = {std::make_shared<ModelCheckpoint>(options)},
                        .default_root_dir = folder_ / "run",
                        .num_sanity_val_steps = 0};
    TensorLoader train = loader(), validation = loader();
    Trainer(trainer_options_).fit(trained_, train, validation);
  }
  ~SavedModels() override { set_log_sink({}); }

  static void expect_same(torch::nn::Module& a, torch::nn::Module& b) {
    const StateDict left = network_state(a);
    for (const auto& [name, tensor] : network_state(b).tensors)
      EXPECT_TRUE(tensor.equal(left.tensor(name))) << name;
  }

  TempFolder folder_;
  TrainerOptions trainer_options_;
  Net trained_;
  std::vector<std::string> notes_;
};

// guide: load_from_checkpoint; save_hyperparameters
TEST_F(SavedModels, AreLoadedWithoutATrainer) {
  for (const fs::path& where : {folder_ / "run", folder_ / "run/checkpoints/step-00000008",
                                folder_ / "run/checkpoints/step-00000008/model.safetensors"}) {
    const SavedModel saved = load_saved_model(where);
    if (where.extension() != ".safetensors") {
      EXPECT_EQ(saved.step, 8);
      EXPECT_EQ(saved.precision, "32-true");
      EXPECT_EQ(saved.path, folder_ / "run/checkpoints/step-00000008");
      EXPECT_EQ(saved.hyper_parameters.get<std::int64_t>("width"), 8);
      EXPECT_EQ(saved.hyper_parameters.get<std::string>("activation"), "tanh");
      EXPECT_EQ(saved.hyper_parameters.get<double>("scale"), 0.5);
      EXPECT_TRUE(saved.hyper_parameters.get<bool>("on"));
    }
    Net fresh(8);
    load_weights(fresh, saved);
    expect_same(fresh, trained_);
  }
}

// guide: test(ckpt_path="best")
TEST_F(SavedModels, TheBestAndTheLastAreTestedByName) {
  EXPECT_THAT(checkpoint_steps(folder_ / "run/best"), ElementsAre(4, 6, 8));
  Net fresh(8);
  Trainer trainer(trainer_options_);
  EXPECT_EQ(trainer.load("best", fresh).step, 4);
  EXPECT_EQ(trainer.load("last", fresh).step, 8);
  expect_same(fresh, trained_);
  TensorLoader data = loader();
  EXPECT_EQ(trainer.test(Net(8), data, {.ckpt_path = "last"}).at("test_loss"),
            trainer.test(trained_, data).at("test_loss"));
  EXPECT_NE(trainer.test(Net(8), data, {.ckpt_path = "best"}).at("test_loss"),
            trainer.test(trained_, data).at("test_loss"));
}

// guide: predict
TEST_F(SavedModels, PredictsInTheOrderOfTheData) {
  Net fresh(8);
  TensorLoader data = loader();
  const auto predictions = Trainer({.accelerator = "cpu"})
                               .predict(fresh, data, {.ckpt_path = (folder_ / "run").string()});
  ASSERT_EQ(predictions.size(), 2U);
  for (std::int64_t i = 0; i < 2; ++i) {
    const auto& [scores, index] = predictions[static_cast<std::size_t>(i)];
    EXPECT_EQ(index, i);
    EXPECT_TRUE(scores.equal(trained_.forward(data.batch_at(i).data)));
    EXPECT_FALSE(scores.requires_grad());
  }
  struct Silent : TrainingModule<> {
    Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
      return batch.data.mean();
    }
    std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
      return {};
    }
  } silent;
  EXPECT_THAT(message_of<UserError>([&] { Trainer({.accelerator = "cpu"}).predict(silent, data); }),
              HasSubstr("predict_step"));
}

TEST_F(SavedModels, AreTakenInThePrecisionThatIsAskedFor) {
  Net fresh(8);
  Trainer trainer({.precision = "bf16-true", .accelerator = "cpu"});
  trainer.load((folder_ / "run").string(), fresh);
  EXPECT_EQ(fresh.out->weight.scalar_type(), torch::kBFloat16);
  EXPECT_TRUE(fresh.out->weight.equal(trained_.out->weight.to(torch::kBFloat16)));
}

// guide: fit(ckpt_path)
TEST_F(SavedModels, ARunGoesOnFromAnyCheckpointInAFolderOfItsOwn) {
  TrainerOptions options = trainer_options_;
  options.default_root_dir = folder_ / "other";
  Net fresh(8, {0.1});
  TensorLoader train = loader(), validation = loader();
  Trainer(options).fit(fresh, train, validation,
                       {.ckpt_path = (folder_ / "run/checkpoints/step-00000004").string()});
  expect_same(fresh, trained_);
  const std::string metrics = test::read_text(folder_ / "other/metrics.jsonl");
  EXPECT_THAT(metrics, testing::StartsWith("{\"step\":5,"));
}

// guide: strict=False
TEST_F(SavedModels, WarmStartsWhatFits) {
  struct Other : torch::nn::Module {
    torch::nn::Linear hidden = register_module("hidden", torch::nn::Linear(4, 8));
    torch::nn::Linear out = register_module("out", torch::nn::Linear(8, 3));
    torch::nn::Linear extra = register_module("extra", torch::nn::Linear(2, 2));
  } other;
  const Tensor before = other.out->weight.detach().clone();
  const WarmStart start = warm_start(other, load_saved_model(folder_ / "run"));
  EXPECT_THAT(start.loaded, ElementsAre("hidden.bias", "hidden.weight"));
  EXPECT_THAT(start.other_shape, ElementsAre("out.bias", "out.weight"));
  EXPECT_THAT(start.missing, ElementsAre("extra.bias", "extra.weight"));
  EXPECT_TRUE(start.unexpected.empty());
  EXPECT_TRUE(other.hidden->weight.equal(trained_.hidden->weight));
  EXPECT_TRUE(other.out->weight.equal(before));
  EXPECT_EQ(start.to_string(),
            "2 of 6 tensors; extra.bias, extra.weight are not in the file and keep their values; "
            "out.bias, out.weight are of another shape and keep their values");
  EXPECT_THAT(notes_.back(), HasSubstr("2 of 6 tensors"));
  torch::nn::Linear none(3, 3);
  EXPECT_THAT(message_of<UserError>([&] { warm_start(*none, load_saved_model(folder_ / "run")); }),
              HasSubstr("none of its 4 tensors fits"));
}

TEST_F(SavedModels, ARunThatIsResumedMayKeepFewer) {
  TrainerOptions options = trainer_options_;
  options.max_epochs = 6;
  options.callbacks = {std::make_shared<ModelCheckpoint>(
      ModelCheckpointOptions{.keep_last = 4, .monitor = "val_loss", .save_top_k = 1})};
  Net resumed(8, {0.25, 0.1});
  TensorLoader train = loader(), validation = loader();
  Trainer(options).fit(resumed, train, validation, {.resume = true});
  EXPECT_THAT(checkpoint_steps(folder_ / "run/best"), ElementsAre(12));
  EXPECT_EQ(load_saved_model((folder_ / "run/best").string() + "/").step, 12);
}

TEST_F(SavedModels, WhatWasBestInAnotherRunIsNotBestInThisOne) {
  TrainerOptions options = trainer_options_;
  options.default_root_dir = folder_ / "other";
  options.max_epochs = 6;
  options.callbacks = {std::make_shared<ModelCheckpoint>(
      ModelCheckpointOptions{.monitor = "val_loss", .save_top_k = 2})};
  Net fresh(8, {0.9, 0.8});
  TensorLoader train = loader(), validation = loader();
  Trainer(options).fit(fresh, train, validation, {.ckpt_path = (folder_ / "run").string()});
  EXPECT_EQ(Trainer(options).load("best", fresh).step, 12);
}

TEST_F(SavedModels, SayWhatIsWrong) {
  EXPECT_THAT(
      message_of<UserError>([&] {
        Net other(8);
        TensorLoader train = loader();
        Trainer({.max_epochs = 1, .accelerator = "cpu"})
            .fit(other, train,
                 {.ckpt_path =
                      (folder_ / "run/checkpoints/step-00000008/model.safetensors").string()});
      }),
      HasSubstr("holds weights only"));
  Net wide(16);
  const std::string run = (folder_ / "run").string();
  EXPECT_THAT(message_of<UserError>([&] { load_weights(wide, load_saved_model(run)); }),
              HasSubstr("hidden.weight [8, 4] instead of [16, 4]"));
  EXPECT_EQ(load_saved_model(run).hyper_parameter<std::int64_t>("width"), 8);
  EXPECT_THAT(message_of<UserError>(
                  [&] { (void)load_saved_model(run).hyper_parameter<std::string>("width"); }),
              testing::AllOf(HasSubstr("step-00000008"), HasSubstr("'width' as an integer")));
  EXPECT_THAT(message_of<UserError>(
                  [&] { (void)load_saved_model(run).hyper_parameter<std::int64_t>("heads"); }),
              HasSubstr("has no hyper-parameter 'heads', it has activation, on, scale, width"));
  EXPECT_THAT(message_of<UserError>([&] { load_saved_model(folder_ / "nowhere"); }),
              HasSubstr("does not exist; expected a run directory"));
  EXPECT_THAT(message_of<UserError>([&] { load_saved_model(folder_.path()); }),
              HasSubstr("has no checkpoint"));
  Net fresh(8);
  EXPECT_THAT(message_of<UserError>([&] { Trainer({.accelerator = "cpu"}).load("best", fresh); }),
              HasSubstr("default_root_dir"));
  fs::remove_all(folder_ / "run/best");
  EXPECT_THAT(message_of<UserError>([&] { Trainer(trainer_options_).load("best", fresh); }),
              HasSubstr("has no best checkpoint; train with a ModelCheckpoint that has a monitor"));
  test::write_text(folder_ / "bad.safetensors", "not a file of tensors");
  EXPECT_THROW(load_saved_model(folder_ / "bad.safetensors"), UserError);
}

// guide: train_time_interval
TEST(ModelCheckpointByTime, SavesWhenTheTimeHasPassed) {
  const TempFolder folder;
  Net module(8);
  TensorLoader train = loader();
  std::vector<std::int64_t> saved;
  ModelCheckpointOptions options{.every_n_epochs = 0, .train_time_interval = 1e-9};
  options.on_saved = [&](const fs::path& /*run*/, std::int64_t step) { saved.push_back(step); };
  Trainer({.max_steps = 3,
           .accelerator = "cpu",
           .callbacks = {std::make_shared<ModelCheckpoint>(options)},
           .default_root_dir = folder / "run"})
      .fit(module, train);
  EXPECT_THAT(saved, ElementsAre(1, 2, 3));
}

struct WideOptions {
  std::int64_t width = 3;
  std::string activation = "relu";
  double scale = 1.0;
  bool on = false;
  double lr = 0.1;  // no hyper-parameter

  void fields(auto each) {
    each("width", width, "of the hidden layer");
    each("activation", activation);
    each("scale", scale);
    each("on", on);
  }
};

struct Wide : Net {
  using Options = WideOptions;
  explicit Wide(const Options& the_options) : Net(the_options.width), options(the_options) {
    save_hyper_parameters(hyper_parameters_of(options));
  }
  Options options;
};

TEST_F(SavedModels, AreBuiltFromTheFieldsOfTheirOptions) {
  const SavedModel saved = load_saved_model(folder_ / "run");
  const auto built = build_module<Wide>(saved);
  EXPECT_EQ(built->options.width, 8);
  EXPECT_EQ(built->options.activation, "tanh");
  EXPECT_EQ(built->options.scale, 0.5);
  EXPECT_TRUE(built->options.on);
  EXPECT_EQ(built->options.lr, 0.1);
  EXPECT_EQ(built->hyper_parameters().values, saved.hyper_parameters.values);
  load_weights(*built, saved);
  expect_same(*built, trained_);
}

TEST_F(SavedModels, AreLoadedWithATrainerOfTheirOwn) {
  for (const fs::path& where : {folder_ / "run", folder_ / "run/checkpoints/step-00000008"}) {
    LoadedModel<Wide> loaded(where.string());
    EXPECT_EQ(loaded.saved.step, 8);
    EXPECT_EQ(loaded.trainer.options().precision, "32-true");
    EXPECT_FALSE(loaded.module->is_training());
    expect_same(*loaded.module, trained_);
    TensorLoader data = loader();
    EXPECT_EQ(loaded.trainer.test(loaded.module, data).at("test_loss"),
              Trainer(trainer_options_).test(trained_, data).at("test_loss"));
  }
  EXPECT_EQ(LoadedModel<Wide>(folder_ / "run", {.precision = "bf16-true", .accelerator = "cpu"})
                .module->out->weight.scalar_type(),
            torch::kBFloat16);
  EXPECT_THAT(message_of<UserError>([&] { LoadedModel<Wide>(folder_ / "none"); }),
              HasSubstr("does not exist"));
}

struct OtherOptions {
  std::int64_t heads = 1;
  void fields(auto each) { each("heads", heads); }
};

TEST_F(SavedModels, SayWhichFieldTheyLack) {
  const SavedModel saved = load_saved_model(folder_ / "run");
  EXPECT_THAT(message_of<UserError>([&] { (void)saved_options<OtherOptions>(saved); }),
              AllOf(HasSubstr("step-00000008"), HasSubstr("'heads'"), HasSubstr("width")));
}

}  // namespace
}  // namespace halftone::saved_model_test
