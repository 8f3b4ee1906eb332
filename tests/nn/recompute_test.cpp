// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/recompute.h"

#include <ATen/ops/dropout.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "halftone/autocast/autocast.h"
#include "halftone/kernels/fused/swiglu.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/fused_grad_accumulation.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/kernels/linear/weight_residency.h"
#include "support/compute_contexts.h"
#include "support/message_of.h"
#include "support/tensor_memory.h"

namespace halftone::recompute_test {
namespace {

using torch::Tensor;
using Tensors = std::vector<Tensor>;

/// A block with two results, random numbers and more of inside than of outside.
struct Layers {
  Layers() {
    torch::manual_seed(21);
    for (int i = 0; i < 6; ++i)
      weights.push_back(
          (torch::randn({i % 2 == 0 ? 32 : 8, i % 2 == 0 ? 8 : 16}) * 0.3).requires_grad_());
  }
  Tensors operator()(const Tensors& in) const {
    Tensor x = in[0];
    for (std::size_t i = 0; i < weights.size(); i += 2) {
      const Tensor inner = swiglu(halftone::linear(x, weights[i]));
      x = x + at::dropout(halftone::linear(inner, weights[i + 1]), 0.25, /*train=*/true);
    }
    return {x, x.square().mean()};
  }
  Tensors weights;
};

Tensors outputs_of(const Layers& layers, const Tensor& x, bool again) {
  return again ? recompute(layers, {x}, layers.weights) : layers({x});
}

struct Result {
  Tensors values;
  Tensors gradients;  // of x and the weights
  Tensor next_random;
};

enum class Products { kFp32, kBf16, kInt8, kFp8, kFp8Rows };

ComputeType format_of(Products products) {
  if (products == Products::kInt8) return ComputeType::kInt8;
  if (products == Products::kFp8) return ComputeType::kFloat8;
  return products == Products::kFp8Rows ? ComputeType::kFloat8Rows : ComputeType::kFloat32;
}

Result run(bool again, Products products, std::int64_t rows) {
  const Layers layers;
  const Tensor x = torch::randn({rows, 8}).requires_grad_();
  Result result;
  {
    const bool bf16 = products != Products::kFp32 && products != Products::kInt8;
    const Autocast autocast(torch::kCPU, torch::kBFloat16, bf16);
    const ComputeScope scope(test::computing_in(format_of(products), 3, 4));
    result.values = outputs_of(layers, x, again);
    // Streams and random numbers go on where the block left them.
    result.values.push_back(halftone::linear(result.values[0], layers.weights[0]));
    result.next_random = torch::rand({3});
  }
  Tensor loss;
  for (const Tensor& value : result.values)
    loss = loss.defined() ? loss + value.to(torch::kFloat).sum() : value.sum();
  loss.backward();
  EXPECT_FALSE(torch::rand({3}).equal(result.next_random));
  result.gradients.push_back(x.grad());
  for (const Tensor& weight : layers.weights) result.gradients.push_back(weight.grad());
  return result;
}

void expect_same_bits(const Tensors& a, const Tensors& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].equal(b[i])) << i;
}

TEST(Recomputed, GivesTheBitsOfTheBlock) {
  for (const Products products :
       {Products::kFp32, Products::kBf16, Products::kInt8, Products::kFp8, Products::kFp8Rows}) {
    for (const std::int64_t rows : {3, 40}) {
      SCOPED_TRACE(testing::Message() << static_cast<int>(products) << ", " << rows << " rows");
      const Result kept = run(false, products, rows), again = run(true, products, rows);
      expect_same_bits(again.values, kept.values);
      expect_same_bits(again.gradients, kept.gradients);
      EXPECT_TRUE(again.next_random.equal(kept.next_random));
    }
  }
}

TEST(Recomputed, GradientsGoWhereTheyAreWanted) {
  const Layers layers;
  const Tensor x = torch::randn({5, 8}).requires_grad_();
  const auto slopes = [&](bool again, const Tensors& wanted) {
    torch::manual_seed(22);
    return torch::autograd::grad({outputs_of(layers, x, again)[0].sum()}, wanted);
  };
  for (const Tensors& wanted : {Tensors{x}, Tensors{layers.weights[3]}, layers.weights}) {
    expect_same_bits(slopes(true, wanted), slopes(false, wanted));
    EXPECT_FALSE(layers.weights[0].grad().defined());
  }
}

TEST(Recomputed, AddsToPresetGradientsInPlace) {
  Tensors found[2];
  for (const bool again : {false, true}) {
    const Layers layers;
    for (const Tensor& weight : layers.weights) weight.mutable_grad() = torch::ones_like(weight);
    const void* memory = layers.weights[2].grad().data_ptr();
    const ComputeScope region(test::accumulating_in_place());
    outputs_of(layers, torch::ones({9, 8}), again)[0].sum().backward();
    EXPECT_EQ(layers.weights[2].grad().data_ptr(), memory);
    for (const Tensor& weight : layers.weights) found[again].push_back(weight.grad());
  }
  expect_same_bits(found[1], found[0]);
}

TEST(Recomputed, AHookOfAParameterSeesItsGradientOnce) {
  Tensors found[2];
  for (const bool again : {false, true}) {
    const Layers layers;
    int calls = 0;
    for (const Tensor& weight : layers.weights) weight.mutable_grad() = torch::ones_like(weight);
    layers.weights[1].register_hook([&](const Tensor& grad) {
      ++calls;
      return grad * 2;
    });
    const ComputeScope region(test::accumulating_in_place());
    outputs_of(layers, torch::ones({9, 8}), again)[0].sum().backward();
    EXPECT_EQ(calls, 1);
    for (const Tensor& weight : layers.weights) found[again].push_back(weight.grad());
  }
  for (std::size_t i = 0; i < found[0].size(); ++i)
    EXPECT_TRUE(at::allclose(found[1][i], found[0][i], 1e-5, 1e-6)) << i;
}

TEST(Recomputed, ResultsWithoutAGradientStaySo) {
  const Tensor x = torch::ones({2}).requires_grad_();
  const CheckpointedFunction block = [](const Tensors& in) {
    return Tensors{in[0] * 2, in[0].detach() + 1};
  };
  const Tensors out = recompute(block, {x}, {});
  EXPECT_TRUE(out[0].requires_grad());
  EXPECT_FALSE(out[1].requires_grad());
  const Tensors frozen = recompute(block, {x.detach()}, {});
  EXPECT_FALSE(frozen[0].requires_grad());
}

TEST(Recomputed, RunsOnceWhereGradientsAreOff) {
  int runs = 0;
  const CheckpointedFunction block = [&](const Tensors& in) {
    ++runs;
    EXPECT_FALSE(torch::GradMode::is_enabled());
    return in;
  };
  const torch::NoGradGuard no_grad;
  recompute(block, {torch::ones({2}).requires_grad_()}, {});
  EXPECT_EQ(runs, 1);
}

TEST(Recomputed, CanBeDifferentiatedAgainWhereTheGraphIsRetained) {
  const Layers layers;
  const Tensor x = torch::randn({5, 8}).requires_grad_();
  const Tensor loss = outputs_of(layers, x, true)[1];
  const Tensor once = torch::autograd::grad({loss}, {x}, {}, /*retain_graph=*/true)[0];
  EXPECT_TRUE(torch::autograd::grad({loss}, {x})[0].equal(once));
}

TEST(Recomputed, RefusesWhatItCannotDo) {
  const Layers layers;
  const Tensor x = torch::randn({5, 8}).requires_grad_();
  const Tensor loss = outputs_of(layers, x, true)[1];
  const std::string message = test::message_of<c10::Error>(
      [&] { torch::autograd::grad({loss}, {x}, {}, true, /*create_graph=*/true); });
  EXPECT_NE(message.find("[recomputed] expected a first derivative"), std::string::npos) << message;
  EXPECT_THROW(recompute(layers, {}, {}), c10::Error);
  // A weight that has moved since would give other gradients.
  const Tensor later = outputs_of(layers, x, true)[1];
  {
    const torch::NoGradGuard no_grad;
    layers.weights[0].add_(1);
  }
  EXPECT_THROW(later.backward(), c10::Error);
}

/// Writes down what is asked of it, and what the block does between.
struct RecordedResidency : WeightResidency {
  void hold(const Tensors& parameters) override { note("hold", parameters); }
  void release(const Tensors& parameters) override { note("release", parameters); }
  void note(const std::string& what, const Tensors& parameters) {
    events.push_back(what);
    for (std::size_t i = 0; i < parameters.size(); ++i)
      EXPECT_EQ(parameters[i].const_data_ptr(), expected.at(i).const_data_ptr());
    EXPECT_EQ(parameters.size(), expected.size());
  }
  Tensors expected;
  std::vector<std::string> events;
};

TEST(Recomputed, HoldsItsWeightsWhileItRuns) {
  const Layers layers;
  const auto residency = std::make_shared<RecordedResidency>();
  residency->expected = layers.weights;
  const CheckpointedFunction block = [&](const Tensors& in) {
    residency->events.emplace_back("run");
    return layers(in);
  };
  const std::vector<std::string> once{"hold", "run", "release"};
  for (const bool fused : {false, true}) {
    ComputeContext context = compute_context();
    context.weight_residency = residency;
    context.fused_grad_accumulation = fused;
    Tensor loss;
    {
      const ComputeScope scope(context);
      residency->events.clear();
      loss = recompute(block, {torch::randn({5, 8})}, layers.weights)[1];
      EXPECT_EQ(residency->events, once);
      const torch::NoGradGuard no_grad;
      residency->events.clear();
      recompute(block, {torch::randn({5, 8})}, layers.weights);
      EXPECT_EQ(residency->events, once);
    }
    residency->events.clear();
    loss.backward();
    EXPECT_EQ(residency->events, once);
  }
}

TEST(Recomputed, KeepsNothingButItsInputs) {
  const Layers layers;
  const Tensor x = torch::randn({512, 8}).requires_grad_();
  test::TensorMemory memory;
  const auto kept = [&](bool again) {
    const Tensors out = outputs_of(layers, x, again);
    return memory.live();
  };
  // The first result's memory, the scalar, the state of the generator.
  EXPECT_LT(kept(true), 512 * 8 * 4 + 10000);
  EXPECT_GT(kept(false), 10 * 512 * 8 * 4);
}

}  // namespace
}  // namespace halftone::recompute_test
