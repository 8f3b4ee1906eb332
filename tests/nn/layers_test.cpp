// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "halftone/kernels/attention/rope.h"
#include "halftone/nn/feed_forward.h"
#include "halftone/nn/kv_cache.h"
#include "halftone/nn/linear.h"
#include "halftone/nn/moe.h"
#include "halftone/nn/rms_norm.h"
#include "halftone/nn/rope.h"

namespace halftone::layers_test {
namespace {

using torch::Tensor;

TEST(RmsNorm, EqualsTheFormulaWithFp32Statistics) {
  torch::manual_seed(1);
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    // Squares of 300 overflow fp16: statistics in the input's dtype would be infinite.
    const Tensor x = (torch::randn({3, 5, 24}) * 300).to(dtype);
    const Tensor weight = torch::randn({24}).to(dtype);
    const Tensor wide = x.to(torch::kDouble);
    const Tensor normed = wide / (wide.square().mean(-1, true) + 1e-5).sqrt();
    const Tensor expected = normed * weight.to(torch::kDouble);
    const Tensor y = rms_norm(x, weight, 1e-5);
    EXPECT_EQ(y.scalar_type(), dtype);
    const double tolerance = dtype == torch::kFloat ? 1e-6 : dtype == torch::kHalf ? 1e-3 : 8e-3;
    EXPECT_LT(((y.to(torch::kDouble) - expected).norm() / expected.norm()).item<double>(),
              tolerance);
  }
}

TEST(RmsNorm, GradientsEqualThoseOfTheFormulaInDouble) {
  torch::manual_seed(2);
  Tensor x = torch::randn({4, 24}).requires_grad_();
  Tensor weight = torch::randn({24}).requires_grad_();
  const Tensor g = torch::randn({4, 24});
  rms_norm(x, weight, 1e-5).backward(g);
  Tensor x64 = x.detach().to(torch::kDouble).requires_grad_();
  Tensor w64 = weight.detach().to(torch::kDouble).requires_grad_();
  (x64 / (x64.square().mean(-1, true) + 1e-5).sqrt() * w64).backward(g.to(torch::kDouble));
  EXPECT_LT((x.grad() - x64.grad()).abs().max().item<double>(), 1e-5);
  EXPECT_LT((weight.grad() - w64.grad()).abs().max().item<double>(), 1e-5);
}

TEST(RmsNorm, ZerosStayZeros) {
  EXPECT_TRUE(rms_norm(torch::zeros({2, 8}), torch::ones({8}), 1e-5).equal(torch::zeros({2, 8})));
}

TEST(Rope, TurnsAdjacentPairsByThePositionsAngle) {
  torch::manual_seed(3);
  RopeTable table(8, 1e6);
  const Tensor x = torch::randn({2, 5, 3, 8});
  const Tensor y = apply_rope(x, table.rows(10, 5, torch::kCPU));
  for (std::int64_t t = 0; t < 5; ++t) {
    for (std::int64_t i = 0; i < 4; ++i) {
      const double angle =
          static_cast<double>(10 + t) * std::pow(1e6, -2.0 * static_cast<double>(i) / 8);
      const double a = x[1][t][2][2 * i].item<double>();
      const double b = x[1][t][2][2 * i + 1].item<double>();
      EXPECT_NEAR(y[1][t][2][2 * i].item<double>(), a * std::cos(angle) - b * std::sin(angle),
                  1e-5);
      EXPECT_NEAR(y[1][t][2][2 * i + 1].item<double>(), a * std::sin(angle) + b * std::cos(angle),
                  1e-5);
    }
  }
}

TEST(Rope, GradientTurnsBack) {
  RopeTable table(8, 1e4);
  const Tensor rotations = table.rows(0, 5, torch::kCPU);
  Tensor x = torch::randn({2, 5, 3, 8}).requires_grad_();
  const Tensor y = apply_rope(x, rotations);
  y.backward(y.detach());  // R^T R x = x
  EXPECT_LT((x.grad() - x).abs().max().item<double>(), 1e-5);
}

TEST(Rope, LongerTablesKeepTheirBeginning) {
  RopeTable table(8, 1e6);
  const Tensor first = table.rows(0, 7, torch::kCPU).clone();
  EXPECT_EQ(table.rows(0, 5000, torch::kCPU).size(0), 5000);
  EXPECT_TRUE(table.rows(0, 7, torch::kCPU).equal(first));
}

TEST(Rope, TablesMadeInInferenceModeServeTraining) {
  RopeTable table(8, 1e6);
  {
    const torch::InferenceMode inference;
    table.rows(0, 4, torch::kCPU);
  }
  Tensor x = torch::randn({1, 4, 1, 8}).requires_grad_();
  apply_rope(x, table.rows(0, 4, torch::kCPU)).sum().backward();
  EXPECT_TRUE(x.grad().defined());
}

TEST(KvCache, AppendsAndRefusesMoreThanItsCapacity) {
  KvCache cache(2, 4);
  const Tensor key = torch::randn({1, 2, 3, 8});
  EXPECT_TRUE(cache.append(1, key, key).first.equal(key));
  cache.advance(3);
  const auto [keys, values] = cache.append(1, key.narrow(2, 0, 1), key.narrow(2, 1, 1));
  EXPECT_TRUE(keys.equal(torch::cat({key, key.narrow(2, 0, 1)}, 2)));
  EXPECT_TRUE(values.equal(torch::cat({key, key.narrow(2, 1, 1)}, 2)));
  EXPECT_THROW(cache.append(1, key, key), c10::Error);
}

TEST(Linear, IsInitialisedUniformlyWithinTheBound) {
  torch::manual_seed(4);
  const Linear linear(64, 500);
  EXPECT_LE(linear->weight.abs().max().item<double>(), 0.125);
  EXPECT_NEAR(linear->weight.std().item<double>(), 0.125 / std::sqrt(3.0), 0.002);
}

Tensor parameter(const torch::nn::Module& module, const std::string& name) {
  return module.named_parameters()[name];
}

Tensor naive_expert(const torch::nn::Module& moe, const std::string& expert, const Tensor& x) {
  const auto w = [&](const char* name) { return parameter(moe, expert + "." + name + ".weight"); };
  return (torch::silu(x.matmul(w("w1").t())) * x.matmul(w("w3").t())).matmul(w("w2").t());
}

/// Token by token, straight from the definition.
Tensor naive_moe(const torch::nn::Module& moe, const Tensor& x, std::int64_t chosen) {
  std::vector<Tensor> rows;
  for (const Tensor& token : x.flatten(0, 1).unbind(0)) {
    const Tensor scores = token.matmul(parameter(moe, "gate.weight").t()).softmax(0);
    const auto [weights, experts] = scores.topk(chosen);
    Tensor y = naive_expert(moe, "shared_experts", token);
    for (std::int64_t j = 0; j < chosen; ++j) {
      const std::string expert = "experts." + std::to_string(experts[j].item<std::int64_t>());
      const Tensor weight = chosen > 1 ? weights[j] / weights.sum() : weights[j];
      y = y + weight * naive_expert(moe, expert, token);
    }
    rows.push_back(y);
  }
  return torch::stack(rows).view_as(x);
}

TEST(Moe, EqualsALoopOverTokensForwardAndBackward) {
  torch::manual_seed(5);
  for (const std::int64_t chosen : {1, 2, 3}) {
    MoeFeedForward moe(MoeOptions{
        .dim = 16, .hidden_dim = 24, .n_routed_experts = 5, .num_experts_per_tok = chosen});
    Tensor x = torch::randn({3, 7, 16}).requires_grad_();
    const Tensor g = torch::randn({3, 7, 16});
    const Tensor y = moe(x).y;
    const Tensor expected = naive_moe(*moe, x, chosen);
    EXPECT_LT((y - expected).abs().max().item<double>(), 1e-5);
    std::vector<Tensor> inputs = moe->parameters();
    inputs.push_back(x);
    const auto ours = torch::autograd::grad({y}, inputs, {g}, true, false, true);
    const auto theirs = torch::autograd::grad({expected}, inputs, {g}, true, false, true);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      ASSERT_TRUE(ours[i].defined());
      const Tensor other = theirs[i].defined() ? theirs[i] : torch::zeros_like(ours[i]);
      EXPECT_LT((ours[i] - other).abs().max().item<double>(), 1e-4);
    }
  }
}

TEST(Moe, AuxiliaryLossFollowsItsDefinitionPerSequence) {
  torch::manual_seed(6);
  MoeGate gate(MoeOptions{
      .dim = 16, .n_routed_experts = 4, .num_experts_per_tok = 2, .aux_loss_alpha = 0.3});
  const Tensor x = torch::randn({3, 10, 16});
  const Routing routing = gate(x);
  const Tensor scores = x.matmul(parameter(*gate, "weight").t()).softmax(-1);
  double expected = 0.0;
  for (std::int64_t b = 0; b < 3; ++b) {
    for (std::int64_t e = 0; e < 4; ++e) {
      const double count = (routing.experts.view({3, -1})[b] == e).sum().item<double>();
      expected += count * 4 / (10 * 2) * scores[b].select(1, e).mean().item<double>() / 3;
    }
  }
  EXPECT_NEAR(routing.aux_loss.item<double>(), 0.3 * expected, 1e-6);
  gate->eval();
  EXPECT_EQ(gate(x).aux_loss.item<double>(), 0.0);
}

TEST(Moe, RouterIgnoresAutocast) {
  torch::manual_seed(7);
  MoeGate gate(MoeOptions{.dim = 16});
  const Tensor x = torch::randn({1, 10, 16});
  const Routing alone = gate(x);
  at::autocast::set_autocast_enabled(torch::kCPU, true);
  const Routing mixed = gate(x);
  at::autocast::set_autocast_enabled(torch::kCPU, false);
  EXPECT_TRUE(mixed.weights.equal(alone.weights));
  EXPECT_EQ(mixed.weights.scalar_type(), torch::kFloat);
}

}  // namespace
}  // namespace halftone::layers_test
