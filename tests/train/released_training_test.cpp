// SPDX-License-Identifier: Apache-2.0
// Training whose gradients are released, against the ordinary one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/data/tensor_loader.h"
#include "halftone/data/token_file.h"
#include "halftone/optim/adamw.h"
#include "halftone/pretrain/language_modeling.h"
#include "halftone/train/fit_loop.h"
#include "support/message_of.h"
#include "support/temp_folder.h"

namespace halftone::released_training_test {
namespace {

using test::message_of;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using torch::Tensor;

constexpr std::int64_t kVocabulary = 96;

/// Samples of many lengths.
const TokenizedData& data() {
  static const test::TempFolder folder;
  static const TokenizedData tokenized = [] {
    TokenFileWriter writer(folder / "t", 100'000, 1);
    torch::manual_seed(1);
    for (std::int64_t sample = 0; sample < 60; ++sample) {
      const Tensor ids = torch::randint(3, kVocabulary, {3 + sample % 19}, torch::kInt);
      const auto* first = ids.const_data_ptr<std::int32_t>();
      writer.begin_sample();
      writer.add(std::vector<std::int32_t>(first, first + ids.numel()),
                 static_cast<std::size_t>(ids.numel()));
    }
    writer.finish();
    return TokenizedData{.tokens = std::make_shared<const TokenFile>(folder / "t"),
                         .content_hash = 1,
                         .tokenizer_hash = 2,
                         .pad_id = 0};
  }();
  return tokenized;
}

struct Recipe {
  std::string precision = "bf16-mixed";
  MemoryOptions memory;
  double clip = 0.0;
  std::int64_t accumulate = 1;
  bool experts = false;
  bool pack = true;
};

/// The language model with all that trains it.
class ModelRun {
 public:
  explicit ModelRun(const Recipe& recipe)
      : loader_(data(),
                {.batch_size = 2, .seq_len = 16, .pack = recipe.pack, .shuffle = true, .seed = 5}),
        policy_(parse_precision(recipe.precision)),
        precision_(policy_, {}, torch::kCPU, memory_policy(recipe.memory, policy_)),
        module_(model_for(recipe), {.adamw = {.lr = 3e-3, .seed = 9}, .schedule = {.lr = 3e-3}}),
        task_(module_, loader_),
        loop_(task_, precision_,
              {.limits = {.max_steps = 100},
               .accumulate = recipe.accumulate,
               .clip = {.value = recipe.clip}}) {}

  std::vector<StepMetrics> steps(int count) {
    std::vector<StepMetrics> metrics;
    for (int i = 0; i < count; ++i) metrics.push_back(loop_.step());
    return metrics;
  }
  FitLoop& loop() { return loop_; }
  LanguageModeling& module() { return module_; }
  TokenLoader& loader() { return loader_; }

 private:
  static CausalLM model_for(const Recipe& recipe) {
    torch::manual_seed(7);
    return CausalLM(ModelConfig{.dim = 64,
                                .n_layers = 2,
                                .n_heads = 4,
                                .n_kv_heads = 2,
                                .hidden_dim = 96,
                                .vocab_size = kVocabulary,
                                .max_seq_len = 32,
                                .use_moe = recipe.experts});
  }

  TokenLoader loader_;
  PrecisionPolicy policy_;
  MixedPrecision precision_;
  LanguageModeling module_;
  ModuleTrainingTask<LanguageModeling, TokenLoader> task_;
  FitLoop loop_;
};

void expect_same_tensors(const StateDict& a, const StateDict& b) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) EXPECT_TRUE(tensor.equal(b.tensor(name))) << name;
}

void expect_same_run(const Checkpoint& a, const Checkpoint& b) {
  expect_same_tensors(a.model, b.model);
  expect_same_tensors(a.optimizer, b.optimizer);
}

void expect_release_to_be_ordinary(Recipe recipe) {
  recipe.memory.release_gradients = "off";
  ModelRun ordinary(recipe);
  const auto expected = ordinary.steps(3);
  recipe.memory.release_gradients = "on";
  if (recipe.clip > 0) recipe.memory.clip_mode = "exact";
  ModelRun released(recipe);
  const auto metrics = released.steps(3);
  for (std::size_t i = 0; i < metrics.size(); ++i) {
    EXPECT_EQ(metrics[i].loss, expected[i].loss);
    EXPECT_EQ(metrics[i].grad_norm, expected[i].grad_norm);
    EXPECT_GT(*metrics[i].grad_norm, recipe.clip);
  }
  expect_same_run(released.loop().checkpoint(), ordinary.loop().checkpoint());
}

TEST(ReleasedTraining, HasTheBitsOfTheOrdinaryInEveryPrecision) {
  for (const char* precision : {"32-true", "bf16-mixed", "bf16-true", "int8-mixed"}) {
    for (const double clip : {0.0, 0.1}) {
      SCOPED_TRACE(c10::str(precision, ", clip ", clip));
      expect_release_to_be_ordinary({.precision = precision, .clip = clip});
    }
  }
}

TEST(ReleasedTraining, HasThemInEveryLayout) {
  for (const char* master : {"fp32", "none", "split8", "split16"}) {
    for (const char* moments : {"fp32", "bf16", "int8"}) {
      for (const char* gradients : {"auto", "fp32"}) {
        SCOPED_TRACE(c10::str(master, ", ", moments, ", ", gradients));
        expect_release_to_be_ordinary(
            {.memory = {.master_weights = master, .gradients = gradients, .moments = moments},
             .clip = 0.1});
      }
    }
  }
}

TEST(ReleasedTraining, HasThemWithRecomputedBlocksAndExperts) {
  for (const char* recompute : {"none", "blocks"}) {
    for (const bool experts : {false, true}) {
      for (const double clip : {0.0, 0.1}) {
        SCOPED_TRACE(c10::str(recompute, ", experts ", experts, ", clip ", clip));
        expect_release_to_be_ordinary({.memory = {.memory = "lean", .recompute = recompute},
                                       .clip = clip,
                                       .experts = experts});
      }
    }
  }
}

TEST(ReleasedTraining, JoinedMicroBatchesHaveTheMeanOfTheirLosses) {
  for (const bool pack : {true, false}) {
    for (const bool experts : {false, true}) {
      const Recipe recipe{.precision = "32-true", .experts = experts, .pack = pack};
      ModelRun run(recipe);
      CausalLM& model = run.module().model();
      std::vector<TokenBatch> parts;
      for (std::int64_t i = 0; i < 3; ++i) parts.push_back(run.loader().batch_at(i));
      const auto loss_of = [&](const TokenBatch& batch) {
        return model->loss(batch.input_ids, batch.target_ids, batch.loss_mask).total();
      };
      std::vector<Tensor> apart, joined;
      const auto take_gradients = [&](std::vector<Tensor>& gradients) {
        for (const Tensor& parameter : model->parameters()) {
          gradients.push_back(parameter.grad().clone());
          parameter.grad().zero_();
        }
      };
      double mean = 0;
      std::int64_t most = 0;
      for (const TokenBatch& part : parts) {
        const Tensor loss = loss_of(part) / 3;
        loss.backward();
        mean += loss.item<double>();
        most = std::max(most, part.tokens);
      }
      take_gradients(apart);
      std::vector<double> weights;
      for (const TokenBatch& part : parts)
        weights.push_back(static_cast<double>(most) / static_cast<double>(part.tokens));
      const TokenBatch whole = TokenBatch::joined(parts, weights);
      EXPECT_EQ(whole.tokens, parts[0].tokens + parts[1].tokens + parts[2].tokens);
      EXPECT_EQ(whole.loss_mask.eq(parts[0].loss_mask.max()).all().item<bool>(), pack);
      const Tensor loss = loss_of(whole);
      loss.backward();
      take_gradients(joined);
      EXPECT_NEAR(loss.item<double>(), mean, 2e-6);
      for (std::size_t i = 0; i < apart.size(); ++i)
        EXPECT_TRUE(at::allclose(joined[i], apart[i], 1e-4, 1e-6)) << i;
    }
  }
}

TEST(ReleasedTraining, TakesAllMicroBatchesOfAnUpdate) {
  const Recipe apart{.precision = "32-true", .accumulate = 4, .pack = false};
  Recipe joined = apart;
  joined.memory.release_gradients = "on";
  ModelRun expected(apart), run(joined);
  const StepMetrics a = expected.steps(1).front(), b = run.steps(1).front();
  EXPECT_NEAR(b.loss, a.loss, 2e-6);
  EXPECT_NEAR(*b.grad_norm, *a.grad_norm, 1e-5 * *a.grad_norm);
  EXPECT_EQ(b.tokens, a.tokens);
  EXPECT_EQ(run.loop().counters().micro_step, 4);
  EXPECT_EQ(run.loop().checkpoint().trainer.get<std::int64_t>("data.position"), 4);
  const auto batches = *run.loop().length().batches_per_epoch();
  ASSERT_NE(batches % 4, 0);
  while (run.loop().counters().epochs == 0) run.steps(1);  // the last group is smaller
  EXPECT_EQ(run.loop().counters().micro_step, batches);
}

TEST(ReleasedTraining, ClipsTheFirstStepExactlyAndTheOthersByTheNormBefore) {
  const Recipe exact{.memory = {.release_gradients = "on", .clip_mode = "exact"}, .clip = 0.1};
  Recipe previous = exact;
  previous.memory.clip_mode = "auto";
  ModelRun a(exact), b(previous);
  const double norm = *b.steps(1).front().grad_norm;
  EXPECT_EQ(*a.steps(1).front().grad_norm, norm);
  expect_same_run(b.loop().checkpoint(), a.loop().checkpoint());
  EXPECT_EQ(b.loop().checkpoint().trainer.get<double>("scaler.previous_norm"), norm);
  EXPECT_FALSE(a.loop().checkpoint().trainer.values.contains("scaler.previous_norm"));
  a.steps(1);
  b.steps(1);
  const std::string name = "norm.weight";  // its gradient comes first
  EXPECT_FALSE(
      a.loop().checkpoint().model.tensor(name).equal(b.loop().checkpoint().model.tensor(name)));
}

Checkpoint copy_of(Checkpoint checkpoint) {
  for (StateDict* state : {&checkpoint.model, &checkpoint.optimizer, &checkpoint.trainer})
    for (auto& [name, tensor] : state->tensors) tensor = tensor.clone();
  return checkpoint;
}

TEST(ReleasedTraining, GoesOnWithTheSameBits) {
  const Recipe recipe{.memory = {.memory = "leanest"}, .clip = 0.1, .accumulate = 2};
  ModelRun undisturbed(recipe), first(recipe), second(recipe), forgetful(recipe);
  undisturbed.steps(6);
  first.steps(3);
  Checkpoint saved = copy_of(first.loop().checkpoint());
  second.loop().load_checkpoint(saved);
  second.steps(3);
  expect_same_run(second.loop().checkpoint(), undisturbed.loop().checkpoint());

  // The norm of the step before is part of what the next step depends on.
  saved.trainer.values.erase("scaler.previous_norm");
  forgetful.loop().load_checkpoint(saved);
  forgetful.steps(3);
  const StateDict other = forgetful.loop().checkpoint().model;
  const std::string name = "tok_embeddings.weight";
  EXPECT_FALSE(other.tensor(name).equal(undisturbed.loop().checkpoint().model.tensor(name)));
}

/// A regression whose loss can be made inf.
class Regression : public TrainingModule<> {
 public:
  Regression() : layer(register_module("layer", torch::nn::Linear(4, 1))) {}
  Tensor training_step(const Batch& batch, std::int64_t index) override {
    const Tensor loss = (layer(batch.data) - batch.target).square().mean();
    return index == poisoned ? loss * INFINITY : loss;
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    if (foreign)
      return {std::make_shared<torch::optim::SGD>(parameters(), torch::optim::SGDOptions(0.1))};
    return {std::make_shared<AdamW>(parameters(), context.adamw({.lr = 0.1}))};
  }
  torch::nn::Linear layer;
  std::int64_t poisoned = -1;
  bool foreign = false;
};

struct RegressionRun {
  explicit RegressionRun(FitLoopOptions options = {}, Regression configured = {})
      : module(std::move(configured)),
        loader({torch::ones({12, 4}), torch::ones({12, 1})}, {.batch_size = 3, .shuffle = false}),
        precision(parse_precision("32-true"), {}, torch::kCPU,
                  memory_policy({.release_gradients = "on"}, parse_precision("32-true"))),
        task(module, loader),
        loop(task, precision, options) {}
  Regression module;
  TensorLoader loader;
  MixedPrecision precision;
  ModuleTrainingTask<Regression, TensorLoader> task;
  FitLoop loop;
};

TEST(ReleasedTraining, SkipsAStepWhoseLossIsNotFinite) {
  for (const double clip : {0.0, 0.5}) {
    Regression module;
    module.poisoned = 1;
    RegressionRun run({.clip = {.value = clip}}, module);
    EXPECT_FALSE(run.loop.step().skipped);
    const Tensor before = run.module.layer->weight.detach().clone();
    const StepMetrics metrics = run.loop.step();
    EXPECT_TRUE(metrics.skipped);
    EXPECT_THAT(metrics.overflow, testing::UnorderedElementsAre("layer.weight", "layer.bias"));
    EXPECT_TRUE(run.module.layer->weight.equal(before));
    EXPECT_FALSE(run.precision.state_dict().values.contains("previous_norm"));
    EXPECT_FALSE(run.loop.step().skipped);
    EXPECT_FALSE(run.module.layer->weight.equal(before));
    EXPECT_EQ(run.precision.state_dict().values.contains("previous_norm"), clip > 0);
  }
}

TEST(ReleasedTraining, SaysWhatItCannotDo) {
  EXPECT_THAT(message_of<UserError>([] { RegressionRun({.accumulate = 2}); }),
              HasSubstr("set accumulate_grad_batches to 1 and make batches larger"));
  EXPECT_THAT(message_of<UserError>([] {
                RegressionRun({.clip = {.value = 1.0, .algorithm = ClipAlgorithm::kValue}});
              }),
              HasSubstr("clipped by their norm"));
  Regression foreign;
  foreign.foreign = true;
  EXPECT_THAT(message_of<UserError>([&] { RegressionRun({}, foreign); }),
              HasSubstr("or train with release_gradients off"));
}

}  // namespace
}  // namespace halftone::released_training_test
