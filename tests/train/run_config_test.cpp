// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/run_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <cstdint>
#include <fstream>
#include <limits>
#include <string>

#include "halftone/data/tensor_loader.h"
#include "halftone/pretrain/config_file.h"
#include "halftone/pretrain/config_schema.h"
#include "halftone/pretrain/pretrain_inputs.h"
#include "support/temp_folder.h"

namespace halftone::run_config_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TrainConfig read_back(const std::string& toml) {
  const test::TempFolder folder;
  std::ofstream(folder / "config.toml") << toml;
  return resolve_config(read_config_file(folder / "config.toml"));
}

/// What the program trains with when it reads what a Trainer wrote.
TrainerOptions through_the_program(const TrainerOptions& options) {
  return trainer_options_for(read_back(run_config(options)));
}

TEST(RunConfig, IsReadByTheProgram) {
  const TrainerOptions written{
      .max_epochs = 3,
      .max_steps = 70,
      .max_time = 90.5,
      .precision = "16-mixed",
      .accelerator = "cuda:1",
      .accumulate_grad_batches = 4,
      .loss_average = "micro-batches",
      .gradient_clip_val = 0.25,
      .val_check_interval = 5,
      .scaler = {.init_scale = 1024,
                 .growth_factor = 4,
                 .backoff_factor = 0.25,
                 .growth_interval = 7,
                 .hysteresis = 2,
                 .min_scale = 0.5,
                 .max_scale = 2048,
                 .adaptive = true},
      .memory = {.memory = "lean", .moments = "bf16", .offload = "/a \"b\""},
      .keep_fp32 = {R"(layers\.\d+)", "type:\"x\"'"},
      .seed = 9};
  const TrainerOptions read = through_the_program(written);
  EXPECT_EQ(read.max_epochs, written.max_epochs);
  EXPECT_EQ(read.max_steps, written.max_steps);
  EXPECT_EQ(read.max_time, written.max_time);
  EXPECT_EQ(read.precision, written.precision);
  EXPECT_EQ(read.accelerator, written.accelerator);
  EXPECT_EQ(read.accumulate_grad_batches, 4);
  EXPECT_EQ(read.loss_average, "micro-batches");
  EXPECT_EQ(read.gradient_clip_val, 0.25);
  EXPECT_EQ(read.scaler.init_scale, 1024);
  EXPECT_EQ(read.scaler.growth_factor, 4);
  EXPECT_EQ(read.scaler.backoff_factor, 0.25);
  EXPECT_EQ(read.scaler.growth_interval, 7);
  EXPECT_EQ(read.scaler.hysteresis, 2);
  EXPECT_EQ(read.scaler.min_scale, 0.5);
  EXPECT_EQ(read.scaler.max_scale, 2048);
  EXPECT_TRUE(read.scaler.adaptive);
  EXPECT_EQ(read.memory.memory, "lean");
  EXPECT_EQ(read.memory.moments, "bf16");
  EXPECT_EQ(read.memory.offload, "/a \"b\"");
  EXPECT_EQ(read.keep_fp32, written.keep_fp32);
  EXPECT_EQ(read.seed, 9);
}

TEST(RunConfig, IsReadInEveryPrecisionAndMemoryRecipe) {
  for (const std::string& precision : precision_names()) {
    if (precision == "auto") continue;
    const TrainerOptions read = through_the_program({.precision = precision});
    EXPECT_EQ(read.precision, precision);
    EXPECT_EQ(read.gradient_clip_val, 0.0);
    EXPECT_EQ(read.max_steps, std::nullopt);
  }
  for (const std::string& memory : memory_names())
    EXPECT_EQ(through_the_program({.memory = {.memory = memory}}).memory.memory, memory);
}

TEST(RunConfig, SaysWhatIsNoKeyInComments) {
  const std::string toml = run_config({.gradient_clip_val = 0.5,
                                       .gradient_clip_algorithm = "value",
                                       .val_check_interval = 5,
                                       .seed = std::numeric_limits<std::uint64_t>::max()});
  EXPECT_THAT(toml, HasSubstr("# by value instead, at 0.5"));
  EXPECT_THAT(toml, HasSubstr("# validated every 5 steps"));
  EXPECT_THAT(toml, HasSubstr("# seed 18446744073709551615"));
  EXPECT_EQ(read_back(toml).grad_clip, 0.0);
}

TEST(RunConfig, IsWhatATrainerLeaves) {
  struct Line : TrainingModule<> {
    torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
      return layer(batch.data).square().mean();
    }
    std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
      return {std::make_shared<torch::optim::SGD>(parameters(), 0.1)};
    }
    torch::nn::Linear layer = register_module("layer", torch::nn::Linear(4, 1));
  } module;
  const test::TempFolder folder;
  TensorLoader loader({torch::ones({4, 4}), torch::ones({4, 1})}, {.batch_size = 2});
  Trainer({.max_steps = 1,
           .accelerator = "cpu",
           .accumulate_grad_batches = 2,
           .default_root_dir = folder / "run"})
      .fit(module, loader);
  const TrainConfig config = resolve_config(read_config_file(folder / "run" / "config.toml"));
  EXPECT_EQ(config.accumulate, 2);
  EXPECT_EQ(config.device, "cpu");
  EXPECT_EQ(config.max_steps, 1);
}

}  // namespace
}  // namespace halftone::run_config_test
