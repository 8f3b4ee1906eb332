// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/lora.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "halftone/core/error.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/models/causal_lm.h"
#include "halftone/models/model_family.h"
#include "halftone/models/parameter_names.h"
#include "support/message_of.h"

namespace halftone::lora_test {
namespace {

using test::message_of;
using testing::HasSubstr;
using torch::Tensor;

ModelConfig shape(const std::string& generation, bool moe = false) {
  return {.generation = generation,
          .dim = 32,
          .n_layers = 2,
          .n_heads = 4,
          .n_kv_heads = 2,
          .hidden_dim = 48,
          .vocab_size = 50,
          .max_seq_len = 64,
          .use_moe = moe};
}

LoraConfig all_linear() { return {.rank = 4, .alpha = 6.0, .targets = {"all-linear"}}; }

/// With adapters that add something.
CausalLM adapted(const ModelConfig& config, const LoraConfig& lora) {
  torch::manual_seed(3);
  CausalLM model(config);
  model->add_adapters(lora);
  const torch::NoGradGuard no_grad;
  for (const auto& item : model->named_parameters())
    if (item.key().ends_with("lora_B.weight")) item.value().normal_(0.0, 0.3);
  return model;
}

struct Batch {
  Tensor ids = torch::randint(50, {3, 12}, torch::kInt64);
  Tensor targets = torch::randint(50, {3, 12}, torch::kInt64);
  Tensor mask = torch::ones({3, 12});
};

double error(const Tensor& a, const Tensor& b) {
  return ((a.to(torch::kDouble) - b.to(torch::kDouble)).norm() / b.to(torch::kDouble).norm())
      .item<double>();
}

std::string layer_of(const std::string& name) {
  return name.substr(0, name.size() - std::string(".lora_A.weight").size());
}

// With W' = W + s B A: dA = s B^T dW' and dB = s dW' A^T.
TEST(Lora, LogitsAndGradientsAreThoseOfTheMergedModel) {
  for (const ModelFamily* const family : model_families()) {
    const ModelConfig config = shape(std::string(family->generation));
    const LoraConfig lora = all_linear();
    CausalLM model = adapted(config, lora);
    CausalLM dense(config);
    load_parameters(dense, merged_parameters(parameters_of(model), lora), "merged");
    torch::manual_seed(5);
    const Batch batch;
    EXPECT_LT(error(model->forward(batch.ids).logits, dense->forward(batch.ids).logits), 1e-5)
        << family->generation;
    model->loss(batch.ids, batch.targets, batch.mask).total().backward();
    dense->loss(batch.ids, batch.targets, batch.mask).total().backward();
    const auto weights = dense->named_parameters();
    const auto own = model->named_parameters();
    std::size_t adapters = 0;
    for (const auto& item : own) {
      const std::string& name = item.key();
      const Tensor gradient = item.value().grad();
      if (!lora_target_of(name)) {
        EXPECT_FALSE(item.value().requires_grad()) << name;
        EXPECT_FALSE(gradient.defined()) << name;
        continue;
      }
      ++adapters;
      const std::string layer = layer_of(name);
      const Tensor whole = weights[layer + ".weight"].grad().to(torch::kDouble);
      const auto matrix = [&](const char* which) {
        return own[layer + which].detach().to(torch::kDouble);
      };
      const bool is_a = name.ends_with("A.weight");
      const Tensor expected = 1.5 * (is_a ? matrix(".lora_B.weight").t().matmul(whole)
                                          : whole.matmul(matrix(".lora_A.weight").t()));
      EXPECT_LT(error(gradient, expected), 1e-5) << family->generation << " " << name;
    }
    EXPECT_EQ(adapters, 2 * 7 * 2) << family->generation;
  }
}

TEST(Lora, RecomputedBlocksGiveTheSameBits) {
  const Batch batch;
  std::vector<std::vector<Tensor>> gradients;
  for (const bool again : {false, true}) {
    CausalLM model = adapted(shape("v3"), {.rank = 2, .dropout = 0.2});
    ComputeContext context = compute_context();
    context.recompute_blocks = again;
    const ComputeScope scope(context);
    torch::manual_seed(6);
    model->loss(batch.ids, batch.targets, batch.mask).total().backward();
    gradients.emplace_back();
    for (const Tensor& parameter : model->parameters())
      if (parameter.requires_grad()) gradients.back().push_back(parameter.grad());
  }
  ASSERT_EQ(gradients[0].size(), 2 * 2 * 2);
  for (std::size_t i = 0; i < gradients[0].size(); ++i)
    EXPECT_TRUE(gradients[0][i].equal(gradients[1][i])) << i;
}

TEST(Lora, CachedPositionsAreThoseOfOnePass) {
  CausalLM model = adapted(shape("v2"), all_linear());
  model->eval();
  const torch::NoGradGuard no_grad;
  const Tensor ids = torch::randint(50, {1, 9}, torch::kInt64);
  KvCache cache = model->make_cache(9);
  std::vector<Tensor> logits;
  for (std::int64_t i = 0; i < 9; ++i)
    logits.push_back(model->forward(ids.narrow(1, i, 1), &cache).logits);
  EXPECT_LT(error(torch::cat(logits, 1), model->forward(ids).logits), 1e-5);
}

TEST(Lora, WithoutAdaptersTheModelIsItsBase) {
  const ModelConfig config = shape("v2");
  CausalLM model = adapted(config, all_linear());
  CausalLM base(config);
  load_parameters(base, base_parameters(parameters_of(model)), "base");
  const Batch batch;
  const Tensor expected = base->forward(batch.ids).logits;
  EXPECT_GT(error(model->forward(batch.ids).logits, expected), 1e-2);
  ComputeContext context = compute_context();
  context.without_adapters = true;
  const ComputeScope scope(context);
  EXPECT_TRUE(model->forward(batch.ids).logits.equal(expected));
}

TEST(Lora, ShapesAreThoseOfTheModel) {
  for (const ModelFamily* const family : model_families()) {
    const ModelConfig config = shape(std::string(family->generation));
    const LoraConfig lora{.rank = 3, .targets = {"down_proj", "k_proj"}};
    EXPECT_EQ(lora_targets(lora), (std::vector<std::string>{"k_proj", "down_proj"}));
    CausalLM model(config);
    model->add_adapters(lora);
    std::map<std::string, std::vector<std::int64_t>> expected;
    for (const auto& [name, tensor] : adapter_parameters(parameters_of(model)).tensors)
      expected[name] = tensor.sizes().vec();
    std::map<std::string, std::vector<std::int64_t>> shapes;
    for (const NamedShape& one : adapter_shapes(lora, config)) shapes[one.name] = one.sizes;
    EXPECT_EQ(shapes, expected);
    EXPECT_EQ(shapes.size(), 8);
    check_parameters(parameters_of(model), config, "all", lora);
    EXPECT_THAT(
        message_of<UserError>([&] { check_parameters(parameters_of(model), config, "all"); }),
        HasSubstr("unexpected: layers.0.attention.wk.lora_A.weight"));
  }
}

TEST(Lora, TargetsAreFoundByTheNamesOfParameters) {
  EXPECT_EQ(lora_target_of("layers.10.attention.wq.lora_A.weight"), "q_proj");
  EXPECT_EQ(lora_target_of("layers.0.feed_forward.w3.lora_B.weight"), "up_proj");
  for (const char* other :
       {"layers.0.attention.wq.weight", "output.lora_A.weight", "layers.0.lora_A.weight",
        "layers.0.feed_forward.experts.1.w1.lora_A.weight", "layers.lora_A.weight", ""})
    EXPECT_EQ(lora_target_of(other), std::nullopt) << other;
}

TEST(Lora, AlphaIsTwiceTheRankUnlessItIsGiven) {
  EXPECT_EQ(lora_factor({.rank = 8}), 2.0);
  EXPECT_EQ(lora_factor({.rank = 8, .alpha = 4.0}), 0.5);
}

TEST(Lora, WhatMakesNoAdapterIsRefusedByName) {
  const auto refused = [](const LoraConfig& lora, bool moe = false) {
    return message_of<UserError>([&] { validate(lora, shape("v2", moe)); });
  };
  EXPECT_EQ(refused({.rank = 0}), "lora.rank: expected 1 or more, got 0");
  EXPECT_EQ(refused({.rank = 17}),
            "lora.rank: expected at most 16, the smaller side of layers.0.attention.wv (16 x 32), "
            "got 17");
  EXPECT_THAT(refused({.rank = 4, .alpha = -1.0}), HasSubstr("lora.alpha: expected a positive"));
  EXPECT_THAT(refused({.rank = 4, .dropout = 1.0}), HasSubstr("lora.dropout: expected a number"));
  EXPECT_EQ(refused({.rank = 4, .targets = {"q_proj", "qproj"}}),
            "lora.targets: expected one or more of q_proj, k_proj, v_proj, o_proj, gate_proj, "
            "up_proj, down_proj, all-linear, got 'qproj'; did you mean 'q_proj'?");
  EXPECT_THAT(refused({.rank = 4, .targets = {}}), HasSubstr("got none"));
  EXPECT_EQ(refused({.rank = 4, .targets = {"up_proj"}}, /*moe=*/true),
            "lora.targets: up_proj belongs to the experts of this model, which take no adapters; "
            "choose from q_proj, k_proj, v_proj and o_proj");
  validate({.rank = 4, .targets = {"o_proj"}}, shape("v2", /*moe=*/true));
}

TEST(MergedParameters, WaitWhereTheFileDoes) {
  const LoraConfig lora{.rank = 2};
  CausalLM model = adapted(shape("v2"), lora);
  const StateDict now = parameters_of(model);
  StateDict later;
  for (const auto& [name, tensor] : now.tensors) {
    later.tensors[name] = tensor.to(torch::kMeta);
    later.lazy[name] = [copy = tensor] { return copy; };
  }
  const StateDict merged = merged_parameters(now, lora), waiting = merged_parameters(later, lora);
  ASSERT_EQ(waiting.tensors.size(), parameter_shapes(shape("v2")).size());
  for (const auto& [name, tensor] : waiting.tensors) {
    EXPECT_TRUE(tensor.is_meta()) << name;
    EXPECT_TRUE(waiting.tensor(name).equal(merged.tensor(name))) << name;
  }
  later.tensors.erase("layers.1.attention.wv.lora_B.weight");
  EXPECT_THAT(message_of<UserError>([&] { merged_parameters(later, lora); }),
              HasSubstr("lacks the tensor 'layers.1.attention.wv.lora_B.weight'"));
}

}  // namespace
}  // namespace halftone::lora_test
