// SPDX-License-Identifier: Apache-2.0
// The same rows in one batch and in micro-batches: the same optimizer step.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "halftone/data/tensor_loader.h"
#include "halftone/data/token_file.h"
#include "halftone/pretrain/language_modeling.h"
#include "halftone/train/trainer.h"
#include "support/temp_folder.h"

namespace halftone::accumulation_test {
namespace {

using testing::ElementsAre;
using torch::Tensor;

constexpr std::int64_t kVocabulary = 96;
constexpr std::int64_t kRows = 6;
constexpr std::int64_t kLength = 20;

/// Six samples of 2 to 20 ids: 1 to 19 predictions.
TokenizedData samples_of_many_lengths(const test::TempFolder& folder) {
  TokenFileWriter writer(folder / "tokens", kVocabulary, 1);
  torch::manual_seed(1);
  for (const std::int64_t length : {2, 20, 3, 17, 2, 9}) {
    const Tensor ids = torch::randint(3, kVocabulary, {length}, torch::kInt);
    const auto* first = ids.const_data_ptr<std::int32_t>();
    writer.begin_sample();
    writer.add(std::vector<std::int32_t>(first, first + length), static_cast<std::size_t>(length));
  }
  writer.finish();
  return {.tokens = std::make_shared<const TokenFile>(folder / "tokens"),
          .content_hash = 1,
          .tokenizer_hash = 2,
          .pad_id = 0};
}

struct Recipe {
  MemoryOptions memory;
  std::string precision = "32-true";
  std::string loss_average = "tokens";
  bool experts = false;
};

struct StepCollector : Callback {
  void on_step_end(Trainer& /*trainer*/, const StepMetrics& metrics) override {
    steps.push_back(metrics);
  }
  std::vector<StepMetrics> steps;
};

CausalLM small_model(bool experts) {
  torch::manual_seed(7);
  return CausalLM(ModelConfig{.dim = 64,
                              .n_layers = 2,
                              .n_heads = 4,
                              .n_kv_heads = 2,
                              .hidden_dim = 96,
                              .vocab_size = kVocabulary,
                              .max_seq_len = 32,
                              .use_moe = experts});
}

/// The first step, from micro-batches of `batch_size` of the six rows.
StepMetrics step_in_batches_of(std::int64_t batch_size, const Recipe& recipe) {
  const test::TempFolder folder;
  LanguageModeling module(small_model(recipe.experts), {.adamw = {.lr = 3e-3}});
  TokenLoader loader(
      samples_of_many_lengths(folder),
      {.batch_size = batch_size, .seq_len = kLength, .pack = false, .shuffle = false});
  const auto collector = std::make_shared<StepCollector>();
  Trainer({.max_steps = 1,
           .precision = recipe.precision,
           .accelerator = "cpu",
           .accumulate_grad_batches = (kRows + batch_size - 1) / batch_size,
           .loss_average = recipe.loss_average,
           .gradient_clip_val = 1.0,
           .callbacks = {collector},
           .memory = recipe.memory})
      .fit(module, loader);
  return collector->steps.front();
}

// 4: the second micro-batch has fewer rows, too.
constexpr std::int64_t kSplits[] = {1, 2, 3, 4};

void expect_one_step_however_split(const Recipe& recipe, double tolerance) {
  const StepMetrics whole = step_in_batches_of(kRows, recipe);
  for (const std::int64_t batch_size : kSplits) {
    SCOPED_TRACE(c10::str("micro-batches of ", batch_size));
    const StepMetrics split = step_in_batches_of(batch_size, recipe);
    EXPECT_NEAR(split.loss, whole.loss, tolerance * whole.loss);
    EXPECT_NEAR(*split.grad_norm, *whole.grad_norm, tolerance * *whole.grad_norm);
    EXPECT_EQ(split.tokens, whole.tokens);
    ASSERT_EQ(split.logged.contains("aux_loss"), recipe.experts);
    if (recipe.experts) {
      EXPECT_NEAR(split.logged.at("aux_loss"), whole.logged.at("aux_loss"), tolerance);
    }
  }
}

TEST(Accumulation, IsTheMeanOverAllTokensInEveryMemoryRecipe) {
  const test::TempFolder disk;
  const std::vector<MemoryOptions> recipes = {{},
                                              {.memory = "lean"},
                                              {.memory = "leanest"},
                                              {.release_gradients = "on", .clip_mode = "exact"},
                                              {.recompute = "blocks"},
                                              {.offload = disk.path().string()}};
  for (std::size_t i = 0; i < recipes.size(); ++i) {
    for (const bool experts : {false, true}) {
      SCOPED_TRACE(c10::str("recipe ", i, ", experts ", experts));
      expect_one_step_however_split({.memory = recipes[i], .experts = experts}, 2e-6);
    }
  }
}

TEST(Accumulation, IsTheMeanOverAllTokensInEveryPrecision) {
  for (const std::string precision : {"bf16-mixed", "16-mixed", "bf16-true", "int8-mixed"}) {
    SCOPED_TRACE(precision);
    expect_one_step_however_split({.precision = precision}, 0.02);
  }
}

TEST(Accumulation, OfMicroBatchesIsTheMeanOfTheirMeans) {
  const test::TempFolder folder;
  TokenLoader rows(samples_of_many_lengths(folder),
                   {.batch_size = 1, .seq_len = kLength, .pack = false, .shuffle = false});
  for (const bool experts : {false, true}) {
    CausalLM model = small_model(experts);
    double mean = 0;
    for (std::int64_t i = 0; i < kRows; ++i) {
      const TokenBatch row = rows.batch_at(i);
      mean += model->loss(row.input_ids, row.target_ids, row.loss_mask).total().item<double>();
    }
    mean /= kRows;
    for (const char* release : {"off", "on"}) {
      const Recipe recipe{.memory = {.release_gradients = release},
                          .loss_average = "micro-batches",
                          .experts = experts};
      const StepMetrics split = step_in_batches_of(1, recipe);
      EXPECT_NEAR(split.loss, mean, 1e-5) << release;
      EXPECT_GT(std::abs(split.loss - step_in_batches_of(kRows, recipe).loss), 1e-3) << release;
    }
  }
}

/// The loss is the mean over the samples that are not marked.
class Regression : public TrainingModule<> {
 public:
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    const Tensor error = (layer(batch.data) - batch.target).square();
    const Tensor loss = error.index({batch.target.lt(kMark)}).mean();  // of nothing: nan
    log("error", loss);
    log("unweighed", loss, 1.0);
    return loss;
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::SGD>(parameters(), 0.1)};
  }
  static constexpr double kMark = 100.0;
  torch::nn::Linear layer = register_module("layer", torch::nn::Linear(4, 1));
};

class WeighedRegression : public Regression {
 public:
  double loss_weight(const Batch& batch) const override {
    return batch.target.lt(kMark).sum().item<double>();
  }
};

struct Outcome {
  StepMetrics step;
  Tensor weight;
};

template <class Module>
Outcome outcome_of(std::int64_t batch_size, const torch::data::Example<>& data) {
  torch::manual_seed(3);
  Module module;
  TensorLoader loader(data, {.batch_size = batch_size, .shuffle = false});
  const auto collector = std::make_shared<StepCollector>();
  Trainer({.max_steps = 1,
           .accelerator = "cpu",
           .accumulate_grad_batches = loader.batches_per_epoch(),
           .callbacks = {collector}})
      .fit(module, loader);
  return {collector->steps.front(), module.layer->weight.detach().clone()};
}

torch::data::Example<> ten_samples() {
  torch::manual_seed(1);
  return {torch::randn({10, 4}), torch::arange(10.0).unsqueeze(1)};
}

TEST(Accumulation, WeighsTheBatchesOfAModuleByTheirSamples) {
  const Outcome whole = outcome_of<Regression>(10, ten_samples());
  for (const std::int64_t batch_size : {3, 4, 7}) {
    const Outcome split = outcome_of<Regression>(batch_size, ten_samples());
    EXPECT_NEAR(split.step.loss, whole.step.loss, 1e-5 * whole.step.loss);
    EXPECT_NEAR(split.step.logged.at("error"), whole.step.loss, 1e-5 * whole.step.loss);
    EXPECT_GT(std::abs(split.step.logged.at("unweighed") - whole.step.loss), 0.1);
    EXPECT_TRUE(split.weight.allclose(whole.weight, 1e-5, 1e-6)) << batch_size;
  }
}

TEST(Accumulation, WeighsThemByWhatTheModuleSays) {
  torch::data::Example<> data = ten_samples();
  data.target.slice(0, 1, 7) += Regression::kMark;  // 4 of 10 count: the first and the last three
  const Outcome whole = outcome_of<WeighedRegression>(10, data);
  for (const std::int64_t batch_size : {1, 3, 4}) {
    // Some batches have no sample that counts: their loss is nan, and they weigh nothing.
    const Outcome split = outcome_of<WeighedRegression>(batch_size, data);
    EXPECT_FALSE(split.step.skipped);
    EXPECT_NEAR(split.step.loss, whole.step.loss, 1e-5 * whole.step.loss);
    EXPECT_NEAR(split.step.logged.at("error"), whole.step.loss, 1e-5 * whole.step.loss);
    EXPECT_TRUE(split.weight.allclose(whole.weight, 1e-5, 1e-6)) << batch_size;
  }
}

TEST(Accumulation, ValidationWeighsBatchesToo) {
  for (const std::int64_t batch_size : {10, 8, 5, 1}) {
    torch::manual_seed(3);
    Regression module;
    TensorLoader loader(ten_samples(), {.batch_size = batch_size, .shuffle = false});
    const double expected =
        (module.layer(ten_samples().data) - ten_samples().target).square().mean().item<double>();
    EXPECT_NEAR(Trainer({.accelerator = "cpu"}).validate(module, loader).at("val_loss"), expected,
                1e-5 * expected)
        << batch_size;
  }
}

}  // namespace
}  // namespace halftone::accumulation_test
