// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/causal_lm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "halftone/core/error.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/models/model_family.h"
#include "halftone/models/parameter_names.h"
#include "halftone/nn/loss.h"
#include "support/golden_file.h"
#include "support/golden_model.h"

namespace halftone::causal_lm_test {
namespace {

using torch::Tensor;

ModelConfig small_config(bool moe) {
  return {.dim = 64,
          .n_layers = 2,
          .n_heads = 4,
          .n_kv_heads = 2,
          .hidden_dim = 96,
          .vocab_size = 200,
          .max_seq_len = 64,
          .use_moe = moe};
}

/// Turns CPU autocast on while it lives.
class TestAutocast {
 public:
  explicit TestAutocast(torch::ScalarType dtype) {
    at::autocast::set_autocast_dtype(torch::kCPU, dtype);
    at::autocast::set_autocast_enabled(torch::kCPU, true);
  }
  ~TestAutocast() {
    at::autocast::set_autocast_enabled(torch::kCPU, false);
    at::autocast::set_autocast_dtype(torch::kCPU, torch::kBFloat16);
    at::autocast::clear_cache();
  }
};

TEST(CausalLM, ItsParametersAreKnownFromItsConfiguration) {
  for (const ModelFamily* const family : model_families())
    for (const bool moe : {false, true})
      for (const std::int64_t shared : {0, 1})
        for (const bool tied : {false, true}) {
          ModelConfig config = small_config(moe);
          config.generation = family->generation;
          config.n_shared_experts = shared;
          config.tie_embeddings = tied;
          if ((moe && !family->may_have_experts) || (shared == 1 && !family->may_share_experts) ||
              (!tied && !family->may_untie))
            continue;
          const CausalLM model(config);
          std::vector<NamedShape> shapes;
          for (const auto& item : model->named_parameters())
            shapes.push_back({item.key(), item.value().sizes().vec()});
          EXPECT_TRUE(parameter_shapes(config) == shapes) << family->generation;
          EXPECT_EQ(parameter_count(config), parameter_count(model)) << family->generation;
        }
}

struct FirstStep {
  Tensor logits;
  Tensor loss;
  Tensor aux;
};

FirstStep first_step(CausalLM& model, const test::GoldenFile& golden) {
  const Tensor ids = golden.tensors.at("batches.ids")[0];
  const ModelOutput out = model->forward(ids.narrow(1, 0, 32));
  const Tensor targets = ids.narrow(1, 1, 32).flatten();
  const Tensor mask = golden.tensors.at("batches.mask")[0].flatten();
  return {out.logits, masked_cross_entropy(out.logits.flatten(0, 1), targets, mask), out.aux_loss};
}

CausalLM golden_model(const test::GoldenFile& golden) {
  CausalLM model(test::golden_model_config(golden.config));
  StateDict weights;
  for (const auto& [name, tensor] : golden.tensors)
    if (name.starts_with("weights.")) weights.tensors[name.substr(8)] = tensor;
  load_parameters(model, weights, "golden");
  return model;
}

double relative_error(const Tensor& a, const Tensor& b) {
  return ((a.to(torch::kDouble) - b.to(torch::kDouble)).norm() / b.to(torch::kDouble).norm())
      .item<double>();
}

TEST(CausalLM, LossIsThatOfItsLogits) {
  for (const bool use_moe : {false, true}) {
    torch::manual_seed(3);
    CausalLM model(small_config(use_moe));
    const Tensor ids = torch::randint(model->config().vocab_size, {2, 13});
    const Tensor mask = torch::rand({2, 12}) > 0.3;
    const Tensor x = ids.narrow(1, 0, 12), targets = ids.narrow(1, 1, 12);
    const ModelOutput output = model->forward(x);
    const Tensor expected =
        masked_cross_entropy(output.logits.flatten(0, 1), targets.flatten(), mask.flatten());
    (expected + output.aux_loss).backward();
    const std::vector<Tensor> parameters = model->parameters();
    std::vector<Tensor> gradients;
    for (const Tensor& parameter : parameters) gradients.push_back(parameter.grad().clone());
    model->zero_grad();
    const LossOutput loss = model->loss(x, targets, mask);
    loss.total().backward();
    EXPECT_NEAR(loss.cross_entropy.item<double>(), expected.item<double>(), 1e-5);
    EXPECT_TRUE(loss.aux_loss.equal(output.aux_loss));
    for (std::size_t i = 0; i < parameters.size(); ++i)
      EXPECT_TRUE(parameters[i].grad().allclose(gradients[i], 1e-3, 1e-5)) << i;
    EXPECT_TRUE(model->hidden(x).hidden.sizes().equals({2, 12, model->config().dim}));
  }
}

TEST(CausalLM, RowsStandInForIdsToTheBit) {
  for (const bool use_moe : {false, true})
    for (const bool tied : {false, true}) {
      torch::manual_seed(4);
      ModelConfig config = small_config(use_moe);
      config.tie_embeddings = tied;
      if (!tied) config.generation = "v3", config.n_shared_experts = 0;
      CausalLM model(config);
      model->eval();
      const Tensor ids = torch::randint(config.vocab_size, {2, 13});
      const Tensor mask = torch::rand({2, 12}) > 0.3;
      const Tensor x = ids.narrow(1, 0, 12), targets = ids.narrow(1, 1, 12);
      const Tensor rows = model->embedded(x);
      const HiddenOutput output = model->hidden_of_rows(rows);
      EXPECT_TRUE(output.hidden.equal(model->hidden(x).hidden));
      EXPECT_TRUE(model->cross_entropy(output.hidden, targets, mask)
                      .equal(model->loss(x, targets, mask).cross_entropy));
      const torch::NoGradGuard no_grad;
      KvCache of_ids = model->make_cache(16), of_rows = model->make_cache(16);
      for (const auto& [begin, count] : {std::pair(0, 5), std::pair(5, 1)})
        EXPECT_TRUE(model->hidden_of_rows(rows.narrow(1, begin, count), &of_rows)
                        .hidden.equal(model->hidden(x.narrow(1, begin, count), &of_ids).hidden));
      EXPECT_EQ(of_rows.length(), 6);
    }
}

TEST(CausalLM, APrefixOfRowsConditionsWhatFollows) {
  torch::manual_seed(5);
  CausalLM model(small_config(false));
  const Tensor ids = torch::randint(model->config().vocab_size, {2, 6});
  const Tensor prefix = torch::randn({2, 3, model->config().dim}).set_requires_grad(true);
  const auto said = [&](const Tensor& before) {
    return model->hidden_of_rows(torch::cat({before, model->embedded(ids)}, 1)).hidden;
  };
  const Tensor hidden = said(prefix);
  const Tensor behind = model->hidden_after_rows(prefix, ids).hidden;
  EXPECT_TRUE(behind.equal(hidden.narrow(1, 3, 6)));
  EXPECT_TRUE(behind.is_contiguous());
  EXPECT_THROW(model->hidden_after_rows(prefix.narrow(0, 0, 1), ids), c10::Error);
  EXPECT_THROW(model->hidden_after_rows(prefix.narrow(2, 0, 4), ids), c10::Error);
  EXPECT_THROW(model->hidden_after_rows(prefix.to(torch::kBFloat16), ids), c10::Error);
  EXPECT_TRUE(hidden.sizes().equals({2, 9, model->config().dim}));
  const Tensor other = torch::cat({prefix.narrow(1, 0, 2), prefix.narrow(1, 2, 1) + 1}, 1);
  const Tensor difference = (said(other) - hidden).abs().amax(-1);
  EXPECT_TRUE(difference.narrow(1, 0, 2).eq(0).all().item<bool>());
  EXPECT_TRUE(difference.narrow(1, 2, 7).gt(0).all().item<bool>());
  model->cross_entropy(hidden.narrow(1, 2, 6), ids, torch::ones_like(ids)).backward();
  EXPECT_TRUE(prefix.grad().abs().amax(-1).gt(0).all().item<bool>());
  EXPECT_THROW(model->hidden_of_rows(torch::randn({2, 3, model->config().dim + 1})), c10::Error);
}

class CausalLMGolden : public testing::TestWithParam<const char*> {};

TEST_P(CausalLMGolden, LogitsLossAndGradientsEqualPyTorchs) {
  const test::GoldenFile golden = test::read_golden(GetParam());
  CausalLM model = golden_model(golden);
  const FirstStep step = first_step(model, golden);
  EXPECT_LT(relative_error(step.logits, golden.tensors.at("logits")), 1e-5);
  EXPECT_NEAR(step.loss.item<double>(), golden.tensors.at("first_loss").item<double>(), 1e-5);
  EXPECT_NEAR(step.aux.item<double>(), golden.tensors.at("first_aux").item<double>(), 1e-6);
  (step.loss + step.aux).backward();
  std::map<std::string, Tensor> grads;
  for (const auto& item : model->named_parameters()) grads[item.key()] = item.value().grad();
  std::vector<Tensor> norms;
  for (const auto& [name, grad] : grads) {
    norms.push_back(grad.norm());
    const auto expected = golden.tensors.find("grads." + name);
    if (expected == golden.tensors.end()) continue;
    EXPECT_LT(relative_error(grad, expected->second), 1e-4) << name;
  }
  EXPECT_LT(relative_error(torch::stack(norms), golden.tensors.at("grad_norms")), 1e-5);
}

// Not where a token has one expert: a rounding that changes the choice changes the token's whole
// output. e2e/losses_test holds such a model's losses.
TEST_P(CausalLMGolden, MixedPrecisionStaysNearOnEveryMatmulPath) {
  const test::GoldenFile golden = test::read_golden(GetParam());
  if (test::golden_model_config(golden.config).num_experts_per_tok == 1) return;
  const CpuGemmConfig before = cpu_gemm_config();
  for (const char* path : {"native", "upcast"}) {
    set_cpu_gemm_config(parse_cpu_gemm_config(path));
    for (const torch::ScalarType dtype : {torch::kBFloat16, torch::kHalf}) {
      CausalLM model = golden_model(golden);
      Tensor total;
      {
        const TestAutocast autocast(dtype);
        const FirstStep step = first_step(model, golden);
        EXPECT_EQ(step.logits.scalar_type(), dtype);
        EXPECT_EQ(step.loss.scalar_type(), torch::kFloat);
        EXPECT_NEAR(step.loss.item<double>(), golden.tensors.at("first_loss").item<double>(), 0.01);
        EXPECT_NEAR(step.aux.item<double>(), golden.tensors.at("first_aux").item<double>(), 0.01);
        total = (step.loss + step.aux) * 1024;
      }
      total.backward();
      for (const auto& item : model->named_parameters()) {
        EXPECT_EQ(item.value().grad().scalar_type(), torch::kFloat);
        const auto expected = golden.tensors.find("grads." + item.key());
        if (expected == golden.tensors.end()) continue;
        const double tolerance = dtype == torch::kHalf ? 0.02 : 0.06;
        EXPECT_LT(relative_error(item.value().grad() / 1024, expected->second), tolerance)
            << item.key() << " " << path << " " << dtype;
      }
    }
  }
  set_cpu_gemm_config(before);
}

INSTANTIATE_TEST_SUITE_P(Kinds, CausalLMGolden,
                         testing::Values("minimind_dense.safetensors", "minimind_moe.safetensors",
                                         "minimind_v3_dense.safetensors",
                                         "minimind_v3_moe.safetensors"),
                         [](const auto& param) {
                           const std::string name = param.param;
                           return name.substr(0, name.find('.'));
                         });

TEST(CausalLM, NamesAndCountsAreMiniMinds) {
  const CausalLM dense(small_config(false));
  EXPECT_EQ(parameter_count(dense), parameter_count(small_config(false)));
  const CausalLM moe(small_config(true));
  EXPECT_EQ(parameter_count(moe), parameter_count(small_config(true)));
  const auto names = moe->named_parameters();
  for (const char* name :
       {"tok_embeddings.weight", "layers.0.attention.wq.weight", "layers.1.attention.wo.weight",
        "layers.1.attention_norm.weight", "layers.0.ffn_norm.weight", "norm.weight",
        "layers.0.feed_forward.experts.3.w2.weight", "layers.0.feed_forward.gate.weight",
        "layers.1.feed_forward.shared_experts.w3.weight"})
    EXPECT_TRUE(names.contains(name)) << name;
  EXPECT_TRUE(dense->named_parameters().contains("layers.0.feed_forward.w1.weight"));
  EXPECT_FALSE(names.contains("output.weight"));
}

TEST(CausalLM, FirstLossOf26mIsThatOfAUniformGuess) {
  torch::manual_seed(7);
  CausalLM model(preset_config("minimind-26m"));
  EXPECT_EQ(parameter_count(model), 25'829'888);
  const torch::NoGradGuard no_grad;
  const Tensor ids = torch::randint(6400, {16, 257});
  const Tensor logits = model->forward(ids.narrow(1, 0, 256)).logits;
  const Tensor targets = ids.narrow(1, 1, 256).flatten();
  const Tensor loss =
      masked_cross_entropy(logits.flatten(0, 1), targets, torch::ones_like(targets));
  EXPECT_NEAR(loss.item<double>(), 8.93, 0.02);
}

TEST(CausalLM, CachedForwardEqualsFullForward) {
  for (const bool moe : {false, true}) {
    torch::manual_seed(3);
    CausalLM model(small_config(moe));
    model->eval();
    const torch::NoGradGuard no_grad;
    const Tensor ids = torch::randint(200, {2, 20});
    const Tensor full = model->forward(ids).logits;
    KvCache cache = model->make_cache(64);
    std::vector<Tensor> parts;
    std::int64_t begin = 0;
    for (const std::int64_t count : {7, 1, 1, 5, 6}) {  // a prompt, tokens, more than one at a time
      parts.push_back(model->forward(ids.narrow(1, begin, count), &cache).logits);
      begin += count;
    }
    EXPECT_EQ(cache.length(), 20);
    EXPECT_LT((torch::cat(parts, 1) - full).abs().max().item<double>(), 1e-5);
  }
}

TEST(CausalLM, SequencesOfABatchDoNotSeeEachOther) {
  torch::manual_seed(4);
  CausalLM model(small_config(true));
  model->eval();
  const torch::NoGradGuard no_grad;
  const Tensor ids = torch::randint(200, {3, 10});
  const Tensor together = model->forward(ids).logits;
  for (std::int64_t b = 0; b < 3; ++b)
    EXPECT_LT(
        (model->forward(ids.narrow(0, b, 1)).logits[0] - together[b]).abs().max().item<double>(),
        1e-5);
}

TEST(CausalLM, LaterTokensDoNotChangeEarlierLogits) {
  torch::manual_seed(5);
  CausalLM model(small_config(false));
  model->eval();
  const torch::NoGradGuard no_grad;
  Tensor ids = torch::randint(200, {1, 16});
  const Tensor before = model->forward(ids).logits.clone();
  ids[0][12] = (ids[0][12].item<std::int64_t>() + 1) % 200;
  const Tensor after = model->forward(ids).logits;
  EXPECT_LT((before - after).narrow(1, 0, 12).abs().max().item<double>(), 1e-6);
  EXPECT_GT((before - after).narrow(1, 12, 4).abs().max().item<double>(), 1e-3);
}

TEST(CausalLM, ThreadsWithDifferentPrecisionsDoNotDisturbEachOther) {
  torch::manual_seed(6);
  CausalLM model(small_config(false));
  model->eval();
  const Tensor ids = torch::randint(200, {2, 16});
  const auto run = [&](torch::ScalarType dtype) {
    const torch::NoGradGuard no_grad;
    if (dtype == torch::kFloat) return model->forward(ids).logits;
    const TestAutocast autocast(dtype);
    return model->forward(ids).logits;
  };
  const Tensor alone32 = run(torch::kFloat);
  const Tensor alone16 = run(torch::kBFloat16);
  bool same32 = true;
  bool same16 = true;
  std::thread mixed([&] {
    for (int i = 0; i < 20; ++i) same16 = same16 && run(torch::kBFloat16).equal(alone16);
  });
  for (int i = 0; i < 20; ++i) same32 = same32 && run(torch::kFloat).equal(alone32);
  mixed.join();
  EXPECT_TRUE(same32);
  EXPECT_TRUE(same16);
}

TEST(CausalLM, IdleExpertsGetZeroGradients) {
  torch::manual_seed(8);
  CausalLM model(small_config(true));
  const ModelOutput out = model->forward(torch::full({1, 1}, 5, torch::kLong));  // 2 of 4 experts
  (out.logits.sum() + out.aux_loss).backward();
  int idle = 0;
  for (const auto& item : model->named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    idle += item.key().find("experts.") != std::string::npos &&
            item.value().grad().abs().max().item<float>() == 0.0F;
  }
  EXPECT_EQ(idle, 2 * 2 * 3);  // layers, experts, matrices
}

TEST(CausalLM, RefusesTooManyPositions) {
  CausalLM model(small_config(false));
  EXPECT_THROW(model->forward(torch::zeros({1, 65}, torch::kLong)), c10::Error);
  KvCache cache = model->make_cache(1000);
  EXPECT_EQ(cache.capacity(), 64);
}

TEST(CausalLM, DropoutOnlyActsInTraining) {
  ModelConfig config = small_config(false);
  config.dropout = 0.5;
  CausalLM model(config);
  const torch::NoGradGuard no_grad;
  const Tensor ids = torch::randint(200, {1, 16});
  EXPECT_FALSE(model->forward(ids).logits.equal(model->forward(ids).logits));
  model->eval();
  EXPECT_TRUE(model->forward(ids).logits.equal(model->forward(ids).logits));
}

TEST(CausalLM, TrueSixteenBitModelsKeepTheirDtype) {
  for (const torch::ScalarType dtype : {torch::kBFloat16, torch::kHalf}) {
    for (const bool moe : {false, true}) {
      torch::manual_seed(9);
      CausalLM model(small_config(moe));
      model->to(dtype);
      const ModelOutput out = model->forward(torch::randint(200, {2, 8}));
      EXPECT_EQ(out.logits.scalar_type(), dtype);
      EXPECT_EQ(out.aux_loss.scalar_type(), torch::kFloat);
      (out.logits.to(torch::kFloat).square().mean() + out.aux_loss).backward();
      for (const Tensor& parameter : model->parameters()) {
        EXPECT_EQ(parameter.grad().scalar_type(), dtype);
        EXPECT_TRUE(parameter.grad().isfinite().all().item<bool>());
      }
    }
  }
}

}  // namespace
}  // namespace halftone::causal_lm_test
