// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/run_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <filesystem>
#include <functional>

#include "halftone/core/log.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/train/model_checkpoint.h"
#include "halftone/train/trainer.h"
#include "support/temp_folder.h"

namespace halftone::run_report_test {
namespace {

namespace fs = std::filesystem;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

/// A line through data; 9 parameters.
class Regression : public TrainingModule<> {
 public:
  torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    return torch::nn::functional::mse_loss(line_(batch.data), batch.target);
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.05)};
  }

 private:
  torch::nn::Linear line_ = register_module("line", torch::nn::Linear(8, 1));
};

/// Does something after a step, and notes what the report says then.
struct AtStep : Callback {
  explicit AtStep(std::int64_t wanted, std::function<void(Trainer&)> todo)
      : step(wanted), act(std::move(todo)) {}

  void on_step_end(Trainer& trainer, const StepMetrics& metrics) override {
    if (metrics.step == step) act(trainer);
  }

  std::int64_t step;
  std::function<void(Trainer&)> act;
};

class RunReportTest : public testing::Test {
 protected:
  fs::path run() const { return folder_ / "run"; }
  fs::path report() const { return run() / "report.html"; }

  void fit(std::vector<std::shared_ptr<Callback>> callbacks, std::int64_t max_steps = 6,
           bool resume = false) {
    torch::manual_seed(1);  // the same data again for a run that goes on
    Regression module;
    const torch::Tensor x = torch::randn({24, 8});
    TensorLoader loader({x, x.sum(1, true)}, {.batch_size = 4});  // 6 steps an epoch
    Trainer trainer({.max_steps = max_steps,
                     .accelerator = "cpu",
                     .callbacks = std::move(callbacks),
                     .default_root_dir = run()});
    trainer.fit(module, loader, FitOptions{.resume = resume});
  }

 private:
  TempFolder folder_;
};

TEST_F(RunReportTest, ATrainerWithAFolderLeavesOne) {
  fit({});
  const std::string page = read_text(report());
  EXPECT_THAT(page, HasSubstr("<h1>run</h1><p>finished at step 6, "));
  EXPECT_THAT(page, HasSubstr("<dt>parameters</dt><dd>9</dd>"));
  EXPECT_THAT(page, HasSubstr("<dt>precision</dt><dd>32-true</dd>"));
  EXPECT_THAT(page, HasSubstr("<h3>Loss"));
  EXPECT_THAT(page, HasSubstr("device = &quot;cpu&quot;"));
}

TEST_F(RunReportTest, FactsThatAreGivenComeFirst) {
  fit({std::make_shared<RunReport>(std::vector<RunDescription::Fact>{{"model", "a <line>"}})});
  const std::string page = read_text(report());
  EXPECT_THAT(page, HasSubstr("<dt>model</dt><dd>a &lt;line&gt;</dd>\n<dt>precision</dt>"));
  EXPECT_THAT(page, Not(HasSubstr("<dt>parameters</dt>")));
}

TEST_F(RunReportTest, IsThereFromTheFirstCheckpointOn) {
  std::string early, late;
  fit({std::make_shared<ModelCheckpoint>(ModelCheckpointOptions{.every_n_steps = 2}),
       std::make_shared<AtStep>(1, [&](Trainer&) { early = fs::exists(report()) ? "yes" : "no"; }),
       std::make_shared<AtStep>(5, [&](Trainer&) { late = read_text(report()); })});
  EXPECT_EQ(early, "no");
  EXPECT_THAT(late, HasSubstr("training, as of step 4, "));
}

TEST_F(RunReportTest, SaysThatARunWasStopped) {
  fit({std::make_shared<AtStep>(3, [](Trainer& trainer) { trainer.stop(); })});
  EXPECT_THAT(read_text(report()), HasSubstr("stopped at step 3, "));
}

TEST_F(RunReportTest, ARunThatGoesOnHasAllItsStepsInIt) {
  fit({}, 4);
  fit({}, 9, true);
  EXPECT_THAT(read_text(report()), HasSubstr("<dt>steps</dt><dd>9"));
  fs::remove(report());
  fit({}, 9, true);  // nothing is left to do
  EXPECT_THAT(read_text(report()), HasSubstr("finished at step 9, "));
}

TEST_F(RunReportTest, AnErrorThatEndsTheRunStandsInIt) {
  EXPECT_THROW(fit({std::make_shared<AtStep>(
                   2, [](Trainer&) { throw std::runtime_error("the cat sat on <the> plug"); })}),
               std::runtime_error);
  EXPECT_THAT(read_text(report()),
              HasSubstr("ended by an error (the cat sat on &lt;the&gt; plug) at step 2, "));
}

TEST_F(RunReportTest, AnErrorOfLibTorchStandsInItWithoutItsStack) {
  EXPECT_THROW(fit({std::make_shared<AtStep>(
                   2, [](Trainer&) { TORCH_CHECK(false, "[module] expected two rows"); })}),
               c10::Error);
  EXPECT_THAT(read_text(report()),
              HasSubstr("ended by an error ([module] expected two rows) at step 2, "));
}

TEST_F(RunReportTest, OneThatCannotBeWrittenIsAWarning) {
  std::vector<std::string> said;
  set_log_sink([&](LogLevel, const std::string& message) { said.push_back(message); });
  fit({std::make_shared<ModelCheckpoint>(ModelCheckpointOptions{.every_n_steps = 2}),
       std::make_shared<AtStep>(1, [&](Trainer&) { fs::create_directories(report() / "mine"); })});
  set_log_sink(nullptr);
  EXPECT_THAT(said, testing::Contains(HasSubstr("goes on without its report")).Times(1));
  EXPECT_TRUE(fs::exists(run() / "checkpoints" / "step-00000006"));
}

TEST_F(RunReportTest, APictureThatItLeavesOutIsAWarning) {
  constexpr std::size_t kMostBytes = 1U << 20U;
  const auto draw = [&](const std::string& name, int step, std::size_t bytes) {
    fs::create_directories(run() / "pictures" / name);
    write_text(run() / "pictures" / name / ("step-" + std::to_string(step) + ".png"),
               std::string(bytes, '?'));
  };
  const auto draw_all = [&](Trainer& /*trainer*/) {
    for (const char* name : {"b", "c", "d", "e", "f"})
      for (int step = 1; step <= 4; ++step) draw(name, step, 1);
    for (int step = 1; step <= 4; ++step) draw("g", step, step == 4 ? kMostBytes : 1);
    for (int step = 1; step <= 2; ++step) draw("a", step, kMostBytes + 1);
    for (int step = 1; step <= 2; ++step) draw("h", step, 1);
  };
  std::vector<std::string> said;
  set_log_sink([&](LogLevel, const std::string& message) { said.push_back(message); });
  fit({std::make_shared<ModelCheckpoint>(ModelCheckpointOptions{.every_n_steps = 2}),
       std::make_shared<AtStep>(1, draw_all)});
  set_log_sink(nullptr);
  const std::string page = read_text(report());
  EXPECT_TRUE(page.find("g after step 4") != std::string::npos);
  for (const char* absent : {"\"a after step", "\"h after step"})
    EXPECT_EQ(page.find(absent), std::string::npos) << absent;
  EXPECT_THAT(said, Contains(AllOf(HasSubstr("pictures/a"), HasSubstr("at most 1 MiB"))).Times(1));
  EXPECT_THAT(said,
              Contains(AllOf(HasSubstr("pictures/h"), HasSubstr("at most 24 pictures"))).Times(1));
}

}  // namespace
}  // namespace halftone::run_report_test
