// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/kernels/fused/rms_norm.h"
#include "halftone/kernels/fused/swiglu.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/linear.h"
#include "support/compute_contexts.h"

namespace halftone::saved_linear_test {
namespace {

using torch::Tensor;
using Tensors = std::vector<Tensor>;
using Operation = std::function<Tensor(const Tensors&)>;

constexpr double kEps = 1e-5;

enum class Products { kFp32, kBf16, kFp16, kInt8 };

/// What `run` gives where matmuls have that precision.
template <class Run>
auto under(Products products, const Run& run) {
  std::optional<Autocast> autocast;
  if (products == Products::kBf16 || products == Products::kFp16)
    autocast.emplace(torch::kCPU, products == Products::kBf16 ? torch::kBFloat16 : torch::kHalf);
  const ComputeScope int8(test::computing_in(
      products == Products::kInt8 ? ComputeType::kInt8 : ComputeType::kFloat32, 5));
  return run();
}

Tensors leaves_like(const Tensors& values) {
  Tensors leaves;
  for (const Tensor& value : values) leaves.push_back(value.detach().clone().requires_grad_());
  return leaves;
}

struct Operand {
  const char* name;
  Products unrounded;  // whose matmuls take the operand as it is
  Operation make;
  Tensors from;
};

std::vector<Operand> operands() {
  torch::manual_seed(11);
  const Tensor x = torch::randn({3, 5, 24}), branch = torch::randn({3, 5, 24}).to(torch::kBFloat16);
  const Tensor scale = torch::rand({24}) + 0.5;
  const auto narrow = [](const Tensors& in) {
    return add_rms_norm(in[0], in[1], in[2], kEps, compute_dtype(in[0])).normed;
  };
  return {{"swiglu",
           Products::kFp32,
           [](const Tensors& in) { return swiglu(in[0]); },
           {torch::randn({3, 5, 48})}},
          {"swiglu of bf16",
           Products::kBf16,
           [](const Tensors& in) { return swiglu(in[0].to(torch::kBFloat16)); },
           {torch::randn({3, 5, 48})}},
          {"rms_norm",
           Products::kFp32,
           [](const Tensors& in) { return rms_norm(in[0], in[1], kEps); },
           {x, scale}},
          {"add_rms_norm", Products::kBf16, narrow, {x, branch, scale}}};
}

TEST(LinearInput, ComputedAgainGivesTheBitsOfTheKeptOne) {
  for (const Operand& operand : operands()) {
    for (const Products products :
         {Products::kFp32, Products::kBf16, Products::kFp16, Products::kInt8}) {
      SCOPED_TRACE(testing::Message() << operand.name << ", " << static_cast<int>(products));
      if (std::string(operand.name) == "swiglu of bf16" && products != Products::kBf16) continue;
      const Tensors weights{torch::randn({7, 24}), torch::randn({2, 24})};
      const auto gradients = [&](bool keep) {
        Tensors leaves = leaves_like(operand.from);
        const Tensors parameters = leaves_like(weights);
        const Tensor y = under(products, [&] {
          const Tensor input = operand.make(leaves);
          // A view is a tensor of its own, which has no recipe.
          return merged_linear(keep ? input.view_as(input) : input, parameters);
        });
        leaves.insert(leaves.end(), parameters.begin(), parameters.end());
        const Tensor g = at::arange(y.numel(), torch::kFloat).sin().view(y.sizes());
        return torch::autograd::grad({y}, leaves, {g.to(y.scalar_type())});
      };
      const Tensors again = gradients(false), kept = gradients(true);
      for (std::size_t i = 0; i < kept.size(); ++i) EXPECT_TRUE(again[i].equal(kept[i])) << i;
    }
  }
}

TEST(LinearInput, IsFreedAfterTheProduct) {
  for (const Operand& operand : operands()) {
    const Tensors leaves = leaves_like(operand.from);
    const Tensor weight = torch::randn({7, 24}).requires_grad_();
    const auto is_freed = [&](bool keep) {
      Tensor input, y;
      under(operand.unrounded, [&] {
        input = operand.make(leaves);
        y = halftone::linear(keep ? input.view_as(input) : input, weight);
        return true;
      });
      const auto storage = input.storage().getWeakStorageImpl();
      input.reset();
      return storage.expired();
    };
    EXPECT_TRUE(is_freed(false)) << operand.name;
    EXPECT_FALSE(is_freed(true)) << operand.name;
  }
}

TEST(LinearInput, WrittenToSinceItIsKept) {
  const Tensor weight = torch::ones({2, 4}).requires_grad_();
  const Tensor gate_up = torch::ones({3, 8}).requires_grad_();
  const Tensor input = swiglu(gate_up);
  input.detach().fill_(2);
  const Tensor y = halftone::linear(input, weight);
  y.sum().backward();
  EXPECT_TRUE(weight.grad().equal(torch::full({2, 4}, 6.0F)));
}

TEST(LinearInput, IsKeptWhereItsOperationHasForgottenWhatItKept) {
  const Tensor weight = torch::ones({2, 4}).requires_grad_();
  const Tensor input = swiglu(torch::full({3, 8}, 9.0F).requires_grad_());
  input.sum().backward();
  const Tensor y = halftone::linear(input, weight);
  const Tensor slope = torch::autograd::grad({y.sum()}, {weight})[0];
  EXPECT_TRUE(slope.equal(input.detach().sum(0).expand({2, 4})));
}

TEST(LinearInput, GradientsOfAResultUsedTwiceOrHookedAreWhole) {
  torch::manual_seed(13);
  const Tensor gate_up = torch::randn({5, 48}).requires_grad_();
  const Tensors weights = leaves_like({torch::randn({7, 24}), torch::randn({7, 24})});
  const auto slope = [&](bool keep, bool hook) {
    const Tensor input = swiglu(gate_up);
    if (hook) input.register_hook([](const Tensor& grad) { return grad.mul_(3); });
    const auto product = [&](const Tensor& weight) {
      return halftone::linear(keep ? input.view_as(input) : input, weight);
    };
    const Tensor sum = (product(weights[0]) + product(weights[1]).sin()).sum();
    return torch::autograd::grad({hook ? product(weights[0]).sum() : sum}, {gate_up, weights[0]});
  };
  for (const bool hook : {false, true}) {
    const Tensors again = slope(false, hook), kept = slope(true, hook);
    for (std::size_t i = 0; i < kept.size(); ++i)
      EXPECT_TRUE(at::allclose(again[i], kept[i], 1e-5, 1e-6)) << hook << i;
  }
}

TEST(LinearInput, BothResultsOfANormAreTheirOwn) {
  torch::manual_seed(12);
  const Tensor x = torch::randn({3, 8}).requires_grad_(), branch = torch::randn({3, 8});
  const Tensor scale = torch::rand({8}), weight = torch::zeros({2, 8}).requires_grad_();
  halftone::linear(add_rms_norm(x, branch, scale, kEps).sum, weight).sum().backward();
  EXPECT_TRUE(at::allclose(weight.grad(), (x + branch).detach().sum(0).expand({2, 8})));
}

TEST(LinearInput, SecondDerivativesPassThroughWhatIsComputedAgain) {
  for (const Operand& operand : operands()) {
    const Tensors leaves = leaves_like(operand.from);
    if (std::string(operand.name) == "swiglu of bf16") continue;
    const Tensor weight = torch::randn({7, 24}).requires_grad_();
    const auto penalty = [&](const Tensor& y) {
      Tensors wanted = leaves;
      wanted.push_back(weight);
      const Tensors slopes = torch::autograd::grad({y.pow(3).sum()}, wanted, {}, true, true);
      Tensor sum;
      for (const Tensor& slope : slopes)
        sum = sum.defined() ? sum + slope.square().sum() : slope.square().sum();
      return torch::autograd::grad({sum}, wanted);
    };
    const Tensors ours = penalty(halftone::linear(operand.make(leaves), weight));
    const Tensors theirs = penalty(at::linear(operand.make(leaves), weight));
    for (std::size_t i = 0; i < ours.size(); ++i)
      EXPECT_LT(((ours[i] - theirs[i]).norm() / theirs[i].norm()).item<double>(), 1e-5)
          << operand.name << " " << i;
  }
}

}  // namespace
}  // namespace halftone::saved_linear_test
