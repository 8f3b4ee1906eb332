// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "halftone/inspect/non_finite_finder.h"
#include "halftone/kernels/linear/weight_cache.h"
#include "halftone/models/causal_lm.h"
#include "halftone/nn/recompute.h"
#include "halftone/optim/adamw.h"
#include "halftone/precision/keep_fp32.h"
#include "halftone/train/mixed_precision.h"
#include "support/compute_contexts.h"
#include "support/tensor_memory.h"

namespace halftone::recompute_blocks_test {
namespace {

using torch::Tensor;

ModelConfig small_config() {
  return {.dim = 64,
          .n_layers = 3,
          .n_heads = 4,
          .n_kv_heads = 2,
          .hidden_dim = 96,
          .vocab_size = 200,
          .max_seq_len = 64};
}

struct Batch {
  explicit Batch(std::int64_t seed, std::int64_t batch = 2, std::int64_t steps = 17) {
    torch::manual_seed(static_cast<std::uint64_t>(seed));
    const Tensor all = torch::randint(200, {batch, steps + 1}, torch::kInt64);
    ids = all.narrow(1, 0, steps);
    targets = all.narrow(1, 1, steps);
    mask = torch::ones({batch, steps});
  }
  Tensor ids, targets, mask;
};

struct Trained {
  std::vector<double> losses;
  std::vector<Tensor> gradients;  // of the last update
  std::vector<Tensor> parameters;
};

/// Two updates of two micro-batches each, as the trainer does them.
Trained train(const ModelConfig& config, const std::string& recipe, bool recompute) {
  torch::manual_seed(31);
  MixedPrecision precision(parse_precision(recipe), {}, torch::kCPU);
  CausalLM model(config);
  precision.convert_module(*model);
  std::vector<std::pair<std::string, Tensor>> named;
  for (const auto& item : model->named_parameters()) named.emplace_back(item.key(), item.value());
  const auto optimizer = std::make_shared<AdamW>(named);
  Trained trained;
  std::int64_t pass = 0;
  for (int update = 0; update < 2; ++update) {
    optimizer->zero_grad();
    const ComputeScope converted(test::caching_weights());
    for (int micro = 0; micro < 2; ++micro) {
      const Batch batch(40 + pass);
      Tensor loss;
      {
        const auto region = precision.forward_context(pass++);
        const ComputeScope blocks(test::recomputing_blocks(recompute));
        loss = model->loss(batch.ids, batch.targets, batch.mask).total();
      }
      precision.backward(loss);
      trained.losses.push_back(loss.item<double>());
    }
    trained.gradients.clear();
    for (const Tensor& parameter : model->parameters())
      trained.gradients.push_back(parameter.grad().clone());
    precision.step({optimizer}, {.value = 1.0});
    precision.update();
  }
  for (const Tensor& parameter : model->parameters()) trained.parameters.push_back(parameter);
  return trained;
}

void expect_same_training(const ModelConfig& config, const std::string& recipe) {
  const Trained kept = train(config, recipe, false), again = train(config, recipe, true);
  EXPECT_EQ(again.losses, kept.losses);
  EXPECT_NE(kept.losses[0], kept.losses[2]);
  for (std::size_t i = 0; i < kept.parameters.size(); ++i) {
    EXPECT_TRUE(again.gradients[i].equal(kept.gradients[i])) << i;
    EXPECT_TRUE(again.parameters[i].equal(kept.parameters[i])) << i;
  }
}

class RecomputedTraining : public testing::TestWithParam<const char*> {};

TEST_P(RecomputedTraining, HasTheBitsOfTheOrdinary) {
  expect_same_training(small_config(), GetParam());
}

TEST_P(RecomputedTraining, HasThemWithDropout) {
  ModelConfig config = small_config();
  config.dropout = 0.2;
  expect_same_training(config, GetParam());
}

TEST_P(RecomputedTraining, HasThemWithExperts) {
  ModelConfig config = small_config();
  config.use_moe = true;
  expect_same_training(config, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Recipes, RecomputedTraining,
                         testing::Values("32-true", "bf16-mixed", "16-mixed", "int8-mixed",
                                         "bf16-true"),
                         [](const auto& param_info) {
                           std::string name = param_info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return "of_" + name;
                         });

struct Step {
  Tensor loss;
  std::vector<Tensor> gradients;
};

Step first_step(CausalLM& model, const Batch& batch, bool recompute) {
  const ComputeScope blocks(test::recomputing_blocks(recompute));
  model->zero_grad();
  Step step{.loss = model->loss(batch.ids, batch.targets, batch.mask).total(), .gradients = {}};
  step.loss.backward();
  for (const Tensor& parameter : model->parameters())
    step.gradients.push_back(parameter.grad().defined() ? parameter.grad().clone() : Tensor());
  return step;
}

TEST(RecomputeBlocks, LayersKeptInFp32StaySo) {
  torch::manual_seed(32);
  CausalLM model(small_config());
  keep_fp32(*model, {"layers\\.1\\."});
  const Batch batch(50);
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  const Step kept = first_step(model, batch, false), again = first_step(model, batch, true);
  EXPECT_TRUE(again.loss.equal(kept.loss));
  for (std::size_t i = 0; i < kept.gradients.size(); ++i)
    EXPECT_TRUE(again.gradients[i].equal(kept.gradients[i])) << i;
}

TEST(RecomputeBlocks, TrainsBlocksAboveAFrozenEmbedding) {
  torch::manual_seed(33);
  CausalLM model(small_config());
  for (const auto& item : model->named_parameters())
    item.value().set_requires_grad(item.key().find("layers.0.attention.w") == 0);
  const Batch batch(51);
  const Step kept = first_step(model, batch, false), again = first_step(model, batch, true);
  int trained = 0;
  for (std::size_t i = 0; i < kept.gradients.size(); ++i) {
    ASSERT_EQ(again.gradients[i].defined(), kept.gradients[i].defined());
    if (!kept.gradients[i].defined()) continue;
    ++trained;
    EXPECT_TRUE(again.gradients[i].equal(kept.gradients[i])) << i;
  }
  EXPECT_EQ(trained, 4);
}

TEST(RecomputeBlocks, TheFinderOfNonFiniteValuesWorksThroughThem) {
  torch::manual_seed(34);
  CausalLM model(small_config());
  const Batch batch(52);
  const auto loss = [&] {
    const ComputeScope blocks(test::recomputing_blocks());
    return model->loss(batch.ids, batch.targets, batch.mask).total();
  };
  EXPECT_FALSE(find_first_non_finite(*model, loss).has_value());
  const auto origin = find_first_non_finite(*model, [&] {
    const ComputeScope blocks(test::recomputing_blocks());
    return model->hidden(batch.ids).hidden.sum() / 0.0;
  });
  ASSERT_TRUE(origin.has_value());
  EXPECT_EQ(origin->kind, NonFiniteOrigin::Kind::kForward);
  EXPECT_EQ(origin->site.operation, "aten::div");
}

TEST(RecomputeBlocks, APassNeedsLessMemory) {
  ModelConfig config = small_config();
  config.n_layers = 8;
  CausalLM model(config);
  const Batch batch(53, 4, 64);
  first_step(model, batch, false);  // tables and gradients are there
  test::TensorMemory memory;
  const auto peak = [&](bool recompute) {
    const ComputeScope blocks(test::recomputing_blocks(recompute));
    memory.reset_peak();
    const std::int64_t before = memory.live();
    const Tensor loss = model->loss(batch.ids, batch.targets, batch.mask).total();
    loss.backward();
    return memory.peak() - before;
  };
  const std::int64_t kept = peak(false), again = peak(true);
  EXPECT_LT(again, kept / 2) << again << " of " << kept;
  RecordProperty("bytes_kept", std::to_string(kept));
}

}  // namespace
}  // namespace halftone::recompute_blocks_test
