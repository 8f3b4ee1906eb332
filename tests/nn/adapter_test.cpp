// SPDX-License-Identifier: Apache-2.0
// Adapters beside linear layers, against W + factor B A in plain operations.
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "halftone/autocast/autocast.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/nn/attention.h"
#include "halftone/nn/feed_forward.h"
#include "halftone/nn/linear.h"
#include "halftone/nn/rope.h"
#include "support/tensor_memory.h"

namespace halftone::adapter_test {
namespace {

using torch::Tensor;

double error(const Tensor& a, const Tensor& b) {
  return ((a.to(torch::kDouble) - b.to(torch::kDouble)).norm() / b.to(torch::kDouble).norm())
      .item<double>();
}

/// With a B that is not zero, and everything else frozen.
Linear adapted(std::int64_t in, std::int64_t out, const AdapterOptions& options,
               bool has_bias = false) {
  Linear layer(in, out, has_bias);
  for (Tensor& parameter : layer->parameters()) parameter.set_requires_grad(false);
  layer->add_adapter(options);
  const torch::NoGradGuard no_grad;
  layer->named_parameters()["lora_B.weight"].normal_();
  return layer;
}

Tensor part(const Linear& layer, const char* name) {
  return layer->named_parameters()[name].detach().to(torch::kDouble);
}

TEST(Adapter, AddsNothingAtFirst) {
  torch::manual_seed(1);
  Linear layer(24, 16);
  const Tensor x = torch::randn({3, 5, 24});
  const Tensor before = layer(x);
  layer->add_adapter({.rank = 4, .factor = 2.0});
  EXPECT_TRUE(layer(x).equal(before));
  const auto parameters = layer->named_parameters();
  EXPECT_EQ(parameters["lora_A.weight"].sizes(), (torch::IntArrayRef{4, 24}));
  EXPECT_EQ(parameters["lora_B.weight"].sizes(), (torch::IntArrayRef{16, 4}));
  // As PEFT draws A: kaiming_uniform_ with a = sqrt(5) is uniform within 1 / sqrt(in).
  EXPECT_LE(parameters["lora_A.weight"].abs().max().item<double>(), 1 / std::sqrt(24.0));
  EXPECT_GT(parameters["lora_A.weight"].abs().max().item<double>(), 0.8 / std::sqrt(24.0));
  EXPECT_THROW(layer->add_adapter({.rank = 4}), c10::Error);
}

TEST(Adapter, ValuesAndGradientsAreThoseOfTheFormula) {
  torch::manual_seed(2);
  for (const bool has_bias : {false, true}) {
    Linear layer = adapted(24, 16, {.rank = 4, .factor = 1.5}, has_bias);
    Tensor x = torch::randn({3, 5, 24}).requires_grad_();
    const Tensor pull = torch::randn({3, 5, 16});
    const Tensor y = layer(x);
    (y * pull).sum().backward();

    Tensor wide = x.detach().to(torch::kDouble).requires_grad_();
    Tensor a = part(layer, "lora_A.weight").requires_grad_();
    Tensor b = part(layer, "lora_B.weight").requires_grad_();
    Tensor expected = wide.matmul((part(layer, "weight") + 1.5 * b.matmul(a)).t());
    if (has_bias) expected = expected + part(layer, "bias");
    (expected * pull).sum().backward();
    EXPECT_LT(error(y, expected), 1e-6);
    EXPECT_LT(error(x.grad(), wide.grad()), 1e-6);
    const auto parameters = layer->named_parameters();
    EXPECT_LT(error(parameters["lora_A.weight"].grad(), a.grad()), 1e-6);
    EXPECT_LT(error(parameters["lora_B.weight"].grad(), b.grad()), 1e-6);
    EXPECT_FALSE(layer->weight.grad().defined());
  }
}

// wq and wv of three merged layers have one.
TEST(Adapter, AddsToItsOwnPartOfAMergedProduct) {
  torch::manual_seed(3);
  const Linear q = adapted(24, 16, {.rank = 4, .factor = 0.5});
  const Linear k(24, 8);
  const Linear v = adapted(24, 8, {.rank = 2, .factor = 3.0});
  const std::vector<const LinearImpl*> layers{q.get(), k.get(), v.get()};
  EXPECT_EQ(input_weights(layers).size(), 5);
  const Tensor x = torch::randn({6, 24});
  const Tensor product = merged_linear(x, {q->weight, k->weight, v->weight});
  const Tensor y = with_adapters(product, x, layers);
  const auto merged = [](const Linear& layer, double factor) {
    return part(layer, "weight") +
           factor * part(layer, "lora_B.weight").matmul(part(layer, "lora_A.weight"));
  };
  const Tensor all = torch::cat({merged(q, 0.5), part(k, "weight"), merged(v, 3.0)});
  EXPECT_LT(error(y, x.to(torch::kDouble).matmul(all.t())), 1e-6);
  EXPECT_TRUE(y.narrow(1, 16, 8).equal(product.narrow(1, 16, 8)));
  EXPECT_TRUE(with_adapters(product, x, {k.get()}).is_same(product));

  ComputeContext context = compute_context();
  context.without_adapters = true;
  const ComputeScope scope(context);
  EXPECT_TRUE(with_adapters(product, x, layers).is_same(product));
}

TEST(Adapter, KeepsTheDtypeOfItsLayer) {
  torch::manual_seed(4);
  Linear layer = adapted(32, 32, {.rank = 4, .factor = 2.0});
  const Tensor x = torch::randn({64, 32});
  const Tensor exact = layer(x);
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  const Tensor y = layer(x);
  EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
  EXPECT_LT(error(y, exact), 1e-2);
  EXPECT_GT(error(y, exact), 1e-4) << "it was to be rounded";
}

TEST(Adapter, DropsItsInputInTrainingAlone) {
  torch::manual_seed(5);
  Linear layer = adapted(24, 16, {.rank = 4, .factor = 1.0, .dropout = 0.5});
  const Tensor x = torch::randn({8, 24});
  const Tensor base = merged_linear(x, {layer->weight});
  layer->eval();
  const Tensor whole = layer(x) - base;
  EXPECT_TRUE(layer(x).equal(base + whole));
  layer->train();
  EXPECT_FALSE(layer(x).equal(layer(x)));
  Tensor sum = torch::zeros_like(whole);
  for (int i = 0; i < 2000; ++i) sum += layer(x).detach() - base;
  EXPECT_LT(error(sum / 2000, whole), 0.1) << "what is kept is made larger";
}

// The input of a frozen weight is no use to the backward pass.
TEST(FrozenLinear, KeepsNothingOfItsInput) {
  torch::manual_seed(6);
  for (const bool mixed : {false, true}) {
    const Autocast autocast(torch::kCPU, torch::kBFloat16, mixed);
    Linear layer(64, 64);
    const Tensor source = torch::randn({4096, 64});
    std::vector<std::int64_t> kept;
    for (const bool learns : {true, false}) {
      layer->weight.set_requires_grad(learns);
      test::TensorMemory tensors;
      const std::int64_t before = tensors.live();
      Tensor y;
      {
        const Tensor x = source.clone().requires_grad_() * 2;
        y = layer(x);
      }
      kept.push_back(tensors.live() - before);
    }
    const std::int64_t rows = 4096 * 64 * (mixed ? 2 : 4);
    EXPECT_NEAR(static_cast<double>(kept[0] - kept[1]), static_cast<double>(rows), 0.05 * rows)
        << (mixed ? "bf16-mixed" : "32-true");
  }
}

TEST(FrozenLinear, IsDifferentiatedTwice) {
  torch::manual_seed(7);
  const auto second = [](bool fused) {
    torch::manual_seed(8);
    Linear layer(6, 5);
    layer->weight.set_requires_grad(false);
    Tensor x = torch::randn({4, 6}).requires_grad_();
    const Tensor y = fused ? layer(x) : torch::matmul(x, layer->weight.t());
    const Tensor first =
        torch::autograd::grad({y.pow(3).sum()}, {x}, {}, /*retain_graph=*/true, true).front();
    return torch::autograd::grad({first.pow(2).sum()}, {x}).front();
  };
  EXPECT_LT(error(second(true), second(false)), 1e-5);
}

TEST(FrozenLinear, GivesTheGradientOfALearningOne) {
  torch::manual_seed(9);
  Linear layer(24, 16);
  Tensor x = torch::randn({5, 24}).requires_grad_();
  layer(x).square().sum().backward();
  const Tensor expected = x.grad().clone();
  x.mutable_grad().reset();
  layer->zero_grad();
  layer->weight.mutable_grad().reset();
  layer->weight.set_requires_grad(false);
  layer(x).square().sum().backward();
  EXPECT_TRUE(x.grad().equal(expected));
  EXPECT_FALSE(layer->weight.grad().defined());
}

}  // namespace
}  // namespace halftone::adapter_test
