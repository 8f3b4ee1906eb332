// SPDX-License-Identifier: Apache-2.0
// What Trainer::validate() and the validations of a fit compute and leave behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "halftone/core/log.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/run/run_directory.h"
#include "halftone/train/trainer.h"
#include "support/temp_folder.h"

namespace halftone::validation_test {
namespace {

/// A line with the default validation_step().
class Line : public TrainingModule<> {
 public:
  torch::Tensor forward(const torch::Tensor& x) { return layer_(x); }
  torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    const torch::Tensor error = forward(batch.data) - batch.target;
    log("error", error.mean());
    return error.square().mean();
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.01)};
  }

 private:
  torch::nn::Linear layer_ = register_module("layer", torch::nn::Linear(4, 1));
};

/// Ten samples, the last two of which are hard.
torch::data::Example<> uneven_samples() {
  torch::manual_seed(1);
  torch::Tensor target = torch::zeros({10, 1});
  target.slice(0, 8) += 10;
  return {torch::randn({10, 4}), target};
}

TensorLoader batches_of(std::int64_t batch_size) {
  return {uneven_samples(), {.batch_size = batch_size, .shuffle = false}};
}

TEST(Validation, MeansAreOverSamplesWhateverTheBatchSize) {
  Line module;
  Trainer trainer({.accelerator = "cpu"});
  const auto [x, y] = uneven_samples();
  const torch::Tensor error = module.forward(x).to(torch::kDouble) - y;
  const auto expected_loss = error.square().mean().item<double>();
  const auto expected_error = error.mean().item<double>();
  for (const std::int64_t size : {10, 8, 5, 3, 1}) {
    TensorLoader loader = batches_of(size);
    const std::map<std::string, double> values = trainer.validate(module, loader);
    EXPECT_NEAR(values.at("val_loss"), expected_loss, 1e-5 * expected_loss) << size;
    EXPECT_NEAR(values.at("error"), expected_error, 1e-5 * std::abs(expected_error)) << size;
    EXPECT_NEAR(trainer.test(module, loader).at("test_loss"), expected_loss, 1e-5 * expected_loss);
  }
}

TEST(Validation, AModuleMayGiveItsOwnWeight) {
  struct Weighted : Line {
    double loss_weight(const Batch& batch) const override {
      return batch.target.eq(10).sum().item<double>();
    }
  } module;
  TensorLoader loader = batches_of(4);  // of the weights 0, 0 and 2
  const auto [x, y] = uneven_samples();
  const double expected = (module.forward(x) - y).slice(0, 8).square().mean().item<double>();
  const double mean = Trainer({.accelerator = "cpu"}).validate(module, loader).at("val_loss");
  EXPECT_NEAR(mean, expected, 1e-5 * expected);
}

/// Notes the mode of its norm in every step.
class Normalised : public Line {
 public:
  torch::Tensor training_step(const Batch& batch, std::int64_t index) override {
    modes.push_back(norm->is_training());
    return Line::training_step({norm(batch.data), batch.target}, index);
  }
  torch::nn::BatchNorm1d norm = register_module("norm", torch::nn::BatchNorm1d(4));
  std::vector<bool> modes;
};

TEST(Validation, ASubmoduleInEvalModeStaysThere) {
  Normalised module;
  module.norm->eval();
  const torch::Tensor before = module.norm->running_mean.clone();
  TensorLoader train = batches_of(5), validation = batches_of(10);
  Trainer({.max_epochs = 2, .accelerator = "cpu"}).fit(module, train, validation);
  EXPECT_THAT(module.modes, testing::Each(false));
  EXPECT_EQ(module.modes.size(), 1 + 4 + 2) << "with the batch that is tried out";
  EXPECT_TRUE(module.norm->running_mean.equal(before));
  EXPECT_TRUE(module.is_training());
}

TEST(Validation, SubmodulesAreBackInTheirModeAfterAnException) {
  struct Failing : Normalised {
    void validation_step(const Batch& /*batch*/, std::int64_t /*index*/) override {
      EXPECT_FALSE(is_training() || norm->is_training());
      throw std::runtime_error("no more");
    }
  } module;
  module.eval();
  module.norm->train();
  TensorLoader loader = batches_of(10);
  EXPECT_THROW(Trainer({.accelerator = "cpu"}).validate(module, loader), std::runtime_error);
  EXPECT_FALSE(module.is_training());
  EXPECT_TRUE(module.norm->is_training());
  EXPECT_TRUE(torch::GradMode::is_enabled());
}

TEST(Validation, KeepsWhatTheTrainingHasLogged) {
  struct Noting : Line {
    void on_train_epoch_end(std::int64_t epoch) override {
      log("epochs", static_cast<double>(epoch), 1.0);
      count_tokens(7);
    }
  } module;
  struct Notes : Callback {
    void on_step_end(Trainer& /*trainer*/, const StepMetrics& metrics) override {
      steps.push_back(metrics);
    }
    void on_validation_end(Trainer& /*trainer*/,
                           const std::map<std::string, double>& values) override {
      validations.push_back(values);
    }
    std::vector<StepMetrics> steps;
    std::vector<std::map<std::string, double>> validations;
  };
  const auto notes = std::make_shared<Notes>();
  TensorLoader train = batches_of(5), validation = batches_of(10);
  const test::TempFolder folder;
  Trainer trainer({.max_epochs = 2,
                   .accelerator = "cpu",
                   .callbacks = {notes},
                   .default_root_dir = folder / "run"});
  trainer.fit(module, train, validation);
  ASSERT_EQ(notes->steps.size(), 4);
  EXPECT_FALSE(notes->steps[0].logged.contains("epochs"));
  EXPECT_EQ(notes->steps[1].logged.at("epochs"), 1.0) << "logged before the validation";
  EXPECT_FALSE(notes->steps[2].logged.contains("epochs"));
  EXPECT_EQ(notes->steps[3].logged.at("epochs"), 2.0) << "logged after the last step";
  const std::string lines = test::read_text(RunPaths{folder / "run"}.metrics());
  EXPECT_THAT(lines, testing::HasSubstr(R"({"step":2,"epochs":1.0})"));
  EXPECT_THAT(lines, testing::HasSubstr(R"({"step":4,"epochs":2.0})"));
  EXPECT_EQ(notes->steps[2].tokens, 7);
  EXPECT_EQ(notes->steps[3].tokens, 0);
  ASSERT_EQ(notes->validations.size(), 2);
  for (const auto& values : notes->validations) EXPECT_FALSE(values.contains("epochs"));
  Trainer({.max_epochs = 1, .accelerator = "cpu", .callbacks = {notes}}).fit(module, train);
  EXPECT_FALSE(notes->steps[4].logged.contains("epochs")) << "of the fit before";
}

// guide: callback_metrics, logged_metrics
TEST(LoggedMetrics, AreTheLastOfEachName) {
  struct Noting : Line {
    torch::Tensor training_step(const Batch& batch, std::int64_t index) override {
      if (is_training()) log("steps", static_cast<double>(++steps));
      return Line::training_step(batch, index);
    }
    void on_train_epoch_end(std::int64_t epoch) override {
      log("epochs", static_cast<double>(epoch), 1.0);
    }
    torch::Tensor predict_step(const Batch& batch, std::int64_t /*index*/) override {
      log("predicted", 1.0);
      return forward(batch.data);
    }
    std::int64_t steps = 0;
  } module;
  struct Reading : Callback {
    void add_metrics(Trainer& /*trainer*/, StepMetrics& metrics) override {
      metrics.logged["added"] = 10.0 * static_cast<double>(metrics.step);
    }
    void on_step_end(Trainer& trainer, const StepMetrics& metrics) override {
      const auto& logged = trainer.logged_metrics();
      EXPECT_EQ(logged.at("steps"), static_cast<double>(metrics.step));
      EXPECT_EQ(logged.at("added"), 10.0 * static_cast<double>(metrics.step));
      EXPECT_EQ(logged.contains("val_loss"), trainer.validates() && metrics.step >= 2)
          << "not of what is tried out";
    }
    void on_test_end(Trainer& trainer, const std::map<std::string, double>& values) override {
      EXPECT_EQ(trainer.logged_metrics(), values);
    }
    void on_validation_end(Trainer& trainer, const std::map<std::string, double>& values) override {
      last = values;
      for (const auto& [name, value] : values) EXPECT_EQ(trainer.logged_metrics().at(name), value);
    }
    std::map<std::string, double> last;
  };
  const auto reading = std::make_shared<Reading>();
  TensorLoader train = batches_of(5), validation = batches_of(10);
  Trainer trainer({.max_epochs = 2, .accelerator = "cpu", .callbacks = {reading}});
  EXPECT_THAT(trainer.logged_metrics(), testing::IsEmpty());
  trainer.fit(module, train, validation);
  using testing::Key;
  EXPECT_THAT(
      trainer.logged_metrics(),
      testing::UnorderedElementsAre(Key("steps"), Key("added"), Key("epochs"),
                                    testing::Pair("error", reading->last.at("error")),
                                    testing::Pair("val_loss", reading->last.at("val_loss"))));
  EXPECT_EQ(trainer.logged_metrics().at("steps"), 4.0);
  EXPECT_EQ(trainer.logged_metrics().at("epochs"), 2.0);
  const auto tested = trainer.test(module, validation);
  EXPECT_EQ(trainer.logged_metrics(), tested) << "and none of the fit()";
  const auto validated = trainer.validate(module, train);
  EXPECT_EQ(trainer.logged_metrics(), validated);
  module.steps = 0;
  trainer.fit(module, train);
  EXPECT_THAT(trainer.logged_metrics(), testing::UnorderedElementsAre(Key("steps"), Key("added"),
                                                                      Key("epochs"), Key("error")));
  trainer.predict(module, train);
  EXPECT_EQ(trainer.logged_metrics().size(), 4) << "a prediction logs nothing";
}

// guide: log_dict
TEST(LogLosses, LogsEachAndReturnsTheirSum) {
  struct Summing : Line {
    torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
      const torch::Tensor error = forward(batch.data) - batch.target;
      sum = log_losses({{"square", error.square().mean()}, {"absolute", error.abs().mean()}});
      return sum;
    }
    using Line::log_losses;
    torch::Tensor sum;
  } module;
  TensorLoader train = batches_of(10);
  const auto [x, y] = uneven_samples();
  const torch::Tensor error = module.forward(x) - y;
  Trainer trainer({.max_steps = 1, .accelerator = "cpu"});
  trainer.fit(module, train);
  const auto& logged = trainer.logged_metrics();
  EXPECT_EQ(logged.at("square"), error.square().mean().item<double>());
  EXPECT_EQ(logged.at("absolute"), error.abs().mean().item<double>());
  EXPECT_FLOAT_EQ(module.sum.item<float>(), logged.at("square") + logged.at("absolute"));
  EXPECT_TRUE(module.sum.requires_grad());
  const torch::Tensor one = torch::ones({});
  EXPECT_THROW(module.log_losses({}), c10::Error);
  EXPECT_THROW(module.log_losses({{"a", one}, {"a", one}}), c10::Error);
  EXPECT_THROW(module.log_losses({{"a", torch::ones({2})}}), c10::Error);
}

TEST(Validation, AModuleInEvalModeIsTrainedInItAndSaidToBe) {
  std::vector<std::string> notes;
  set_log_sink([&](LogLevel, const std::string& message) { notes.push_back(message); });
  Normalised module;
  module.eval();
  TensorLoader loader = batches_of(10);
  Trainer({.max_steps = 2, .accelerator = "cpu"}).fit(module, loader);
  set_log_sink({});
  EXPECT_THAT(module.modes, testing::ElementsAre(false, false));
  EXPECT_THAT(notes, testing::Contains(testing::HasSubstr("call train() before fit()")));
}

}  // namespace
}  // namespace halftone::validation_test
