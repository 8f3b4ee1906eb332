// SPDX-License-Identifier: Apache-2.0
// The code of docs/guide.md and docs/trainer.md that stands in no example, word for word.
#include <gtest/gtest.h>
#include <halftone/halftone.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/optim/sgd.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "support/temp_folder.h"

namespace snippets_test {

// Its names are layers.0.w1 and so on.
struct Net : torch::nn::Module {
  Net() {
    layers->push_back(halftone::FeedForward(8, 16, 0.0));
    register_module("layers", layers);
    register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({8})));
  }
  torch::nn::ModuleList layers;
};

TEST(Guide, KeepsPartsInFp32) {
  const auto model = std::make_shared<Net>();
  halftone::keep_fp32(*model, {"layers\\.0\\.", "type:LayerNorm"});
  for (const torch::Tensor& parameter : model->parameters())
    EXPECT_TRUE(halftone::keeps_fp32(parameter));
}

TEST(Guide, ChecksAnOperator) {
  testing::internal::CaptureStdout();
  const halftone::AutocastReport report = halftone::check_autocast_safe(
      [](const auto& inputs) { return torch::log(torch::exp(inputs[0]) + 1); },
      {torch::linspace(-20, 20, 41)});
  std::puts(report.to_string().c_str());
  // The guide shows the first two lines.
  EXPECT_TRUE(testing::internal::GetCapturedStdout().starts_with(
      "not safe under autocast\n  fp16 autocast, first input fp16, output 0: 9 of 41 values "
      "are infinite or NaN; the largest of them is 20 in fp32\n"));
}

TEST(Guide, ReplacesTheProductsOfTheProcess) {
  const torch::Tensor x = torch::randn({64, 64}).to(torch::kBFloat16);
  const torch::Tensor before = torch::mm(x, x);
  halftone::use_fast_cpu_gemms();  // halftone/kernels/gemm/fast_cpu_gemms.h
  EXPECT_TRUE(torch::mm(x, x).allclose(before, 0.02, 0.1));
}

class Painter : public halftone::TrainingModule<torch::Tensor> {
 public:
  Painter() { register_module("patches", patches); }
  torch::Tensor training_step(const torch::Tensor& pictures, std::int64_t /*index*/) override {
    const torch::Tensor x = pictures.to(torch::kFloat) / 127.5 - 1;
    return (patches(x + torch::randn(x.sizes())) - torch::randn({x.size(0), 64, 8, 8}))
        .square()
        .mean();
  }
  std::vector<halftone::OptimizerSetup> configure_optimizers(
      const halftone::OptimizerContext& context) override {
    return {std::make_shared<halftone::AdamW>(parameters(), context.adamw())};
  }
  halftone::Conv2d patches{halftone::Conv2dOptions{
      .in_channels = 3, .out_channels = 64, .kernel = {4, 4}, .stride = {4, 4}}};
};

TEST(Guide, PlansAModule) {
  testing::internal::CaptureStdout();
  const halftone::PlannedTraining training =
      halftone::planned_training([] { return std::make_shared<Painter>(); },
                                 [](std::int64_t n) {
                                   return torch::randint(256, {n, 3, 32, 32}, torch::kUInt8);
                                 });
  const std::uint64_t process = halftone::process_bytes(), budget = halftone::budget_bytes("1GiB");
  std::vector<halftone::ModulePlan> plans =
      halftone::plan_precisions(training, {"32-true", "bf16-mixed", "int8-mixed"}, {}, 64, process);
  if (const auto largest =
          halftone::largest_batch(training, {.precision = "int8-mixed"}, {budget}, process))
    plans.push_back(*largest);
  std::cout << halftone::module_plans_text(plans, 3700, halftone::measure_machine_speed(plans));
  EXPECT_NE(testing::internal::GetCapturedStdout().find("int8-mixed"), std::string::npos);
  EXPECT_EQ(plans.size(), 4U);
}

class Classifier : public halftone::TrainingModule<> {
 public:
  torch::Tensor training_step(const Batch& batch, std::int64_t index) override;
  std::vector<halftone::OptimizerSetup> configure_optimizers(
      const halftone::OptimizerContext& context) override;
};

torch::Tensor Classifier::training_step(const Batch& batch, std::int64_t /*index*/) {
  auto* const layer = children().front()->as<torch::nn::LinearImpl>();
  return torch::nn::functional::cross_entropy(layer->forward(batch.data), batch.target);
}

std::vector<halftone::OptimizerSetup> Classifier::configure_optimizers(
    const halftone::OptimizerContext& context) {
  return {std::make_shared<halftone::AdamW>(parameters(), context.adamw({.lr = 0.1}))};
}

TEST(Guide, TrainsAModule) {
  const halftone::test::TempFolder folder;
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  const torch::Tensor images = torch::randn({32, 4});
  const torch::Tensor labels = images.sum(1).gt(0).to(torch::kLong);
  halftone::TensorLoader train_loader({images, labels}, {.batch_size = 4});
  halftone::TensorLoader validation_loader({images, labels}, {.batch_size = 8, .shuffle = false});
  Classifier module;
  module.register_module("layer", torch::nn::Linear(4, 2));
  halftone::Trainer trainer({.max_epochs = 10,
                             .precision = "16-mixed",
                             .accumulate_grad_batches = 4,
                             .gradient_clip_val = 1.0,
                             .callbacks = {std::make_shared<halftone::ProgressBar>()},
                             .default_root_dir = "runs/classifier"});
  trainer.fit(module, train_loader, validation_loader);
  EXPECT_LT(trainer.validate(module, validation_loader).at("val_loss"), 0.69);
  std::filesystem::current_path(before);
}

TEST(Guide, ComparesPrecisions) {
  const halftone::test::TempFolder folder;
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  torch::manual_seed(3);
  Classifier module;
  module.register_module("layer", torch::nn::Linear(4, 2));
  const torch::Tensor images = 1e-5 * torch::randn({32, 4});
  const Classifier::Batch batch{images, images.sum(1).gt(0).to(torch::kLong)};
  const halftone::TrainingStep step = halftone::training_step_on(module, batch);
  const halftone::Comparison found =
      halftone::compare_precisions(step, {.precision = "16-mixed", .loss_scale = 1.0});
  std::puts(halftone::verdict_sentence(found).c_str());
  for (const halftone::TensorComparison* tensor : halftone::worst_first(found))
    std::printf("%s %g %g\n", tensor->name.c_str(), tensor->relative_error, tensor->tolerance);
  halftone::write_file_atomically("compare.html", halftone::compare_page(found, "classifier"));
  EXPECT_TRUE(std::filesystem::exists("compare.html"));
  EXPECT_GT(found.tensors.size(), 2U);
  std::filesystem::current_path(before);
}

struct Scorer : Classifier {
  Scorer() { register_module("layer", torch::nn::Linear(4, 2)); }
  torch::Tensor predict_step(const Batch& batch, std::int64_t /*index*/) override {
    return children().front()->as<torch::nn::LinearImpl>()->forward(batch.data);
  }
};

TEST(Guide, UsesWhatWasTrained) {
  const halftone::test::TempFolder place;
  const std::filesystem::path folder = place / "run";
  const torch::Tensor images = torch::randn({32, 4});
  halftone::TensorLoader data({images, images.sum(1).gt(0).to(torch::kLong)}, {.batch_size = 8});
  Scorer module;
  halftone::Trainer trainer({.max_epochs = 2,
                             .callbacks = {std::make_shared<halftone::ModelCheckpoint>(
                                 halftone::ModelCheckpointOptions{.monitor = "val_loss"})},
                             .default_root_dir = folder});
  trainer.fit(module, data, data);
  trainer.load("best", module);  // or "last", or a path
  const auto values = trainer.test(module, data, {.ckpt_path = "best"});
  const std::vector<torch::Tensor> scores = trainer.predict(module, data);
  EXPECT_EQ(values.count("test_loss"), 1U);
  EXPECT_EQ(scores.size(), 4U);

  const halftone::SavedModel saved = halftone::load_saved_model(folder);
  Scorer served;
  halftone::load_weights(served, saved);
  EXPECT_EQ(saved.step, 8);
  halftone::Trainer same(halftone::options_of(saved));
  EXPECT_EQ(same.policy().name, saved.precision);
}

}  // namespace snippets_test
