// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/fused_grad_accumulation.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <thread>

#include "halftone/autocast/autocast.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/linear.h"
#include "support/compute_contexts.h"

namespace halftone::fused_grad_accumulation_test {
namespace {

using torch::Tensor;

/// Two weights in one buffer with preset gradients in another, as an optimizer keeps them.
struct Weights {
  Weights() {
    const Tensor values = torch::randn({7, 6}), grads = torch::ones({7, 6});
    std::int64_t row = 0;
    for (const std::int64_t rows : {4, 3}) {
      parameters.push_back(values.narrow(0, row, rows).detach().requires_grad_());
      parameters.back().mutable_grad() = grads.narrow(0, row, rows).detach();
      row += rows;
    }
  }
  Tensor grad() const { return at::cat({parameters[0].grad(), parameters[1].grad()}); }
  std::vector<Tensor> parameters;
};

enum class Recipe { kFp32, kBf16Native, kBf16Upcast, kInt8 };

Tensor output(const Tensor& x, const Weights& weights, Recipe recipe) {
  if (recipe == Recipe::kFp32) return merged_linear(x, weights.parameters);
  if (recipe == Recipe::kInt8) {
    const ComputeScope region(test::computing_in(ComputeType::kInt8, 1));
    return merged_linear(x, weights.parameters);
  }
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  return merged_linear(x, weights.parameters);
}

TEST(FusedGradAccumulation, GivesTheGradientsThatAutogradGives) {
  torch::manual_seed(1);
  const CpuGemmConfig before = cpu_gemm_config();
  const Tensor x = torch::randn({5, 6}), g = torch::randn({5, 7});
  for (const Recipe recipe :
       {Recipe::kFp32, Recipe::kBf16Native, Recipe::kBf16Upcast, Recipe::kInt8}) {
    set_cpu_gemm_config(parse_cpu_gemm_config(recipe == Recipe::kBf16Native ? "native" : "upcast"));
    torch::manual_seed(2);
    const Weights through_autograd;
    torch::manual_seed(2);
    const Weights in_place;
    output(x, through_autograd, recipe).backward(g);
    Tensor y;
    {
      const ComputeScope region(test::accumulating_in_place());
      y = output(x, in_place, recipe);
    }
    const void* memory = in_place.parameters[0].grad().data_ptr();
    y.backward(g.to(y.scalar_type()));
    EXPECT_EQ(in_place.parameters[0].grad().data_ptr(), memory);
    EXPECT_TRUE(at::allclose(in_place.grad(), through_autograd.grad(), 1e-6, 1e-6));
    EXPECT_FALSE(in_place.grad().equal(torch::ones({7, 6})));
  }
  set_cpu_gemm_config(before);
}

TEST(FusedGradAccumulation, LeavesGradAloneWhereAutogradWould) {
  torch::manual_seed(3);
  const Tensor x = torch::randn({5, 6});
  const ComputeScope region(test::accumulating_in_place());
  {
    const Weights weights;
    const auto grads =
        torch::autograd::grad({output(x, weights, Recipe::kFp32).sum()}, weights.parameters);
    EXPECT_TRUE(weights.grad().equal(torch::ones({7, 6})));
    EXPECT_TRUE(grads[0].defined());
  }
  {
    const Weights weights;
    output(x, weights, Recipe::kFp32).sum().backward({}, {}, false, {{weights.parameters[0]}});
    EXPECT_FALSE(weights.parameters[0].grad().equal(torch::ones({4, 6})));
    EXPECT_TRUE(weights.parameters[1].grad().equal(torch::ones({3, 6})));
  }
}

TEST(FusedGradAccumulation, HooksSeeTheirGradient) {
  torch::manual_seed(4);
  const Tensor x = torch::randn({5, 6});
  const Weights weights;
  Tensor seen;
  weights.parameters[1].register_hook([&](const Tensor& grad) {
    seen = grad.clone();
    return grad * 0;
  });
  const ComputeScope region(test::accumulating_in_place());
  output(x, weights, Recipe::kFp32).sum().backward();
  EXPECT_TRUE(at::allclose(seen, x.sum(0).expand({3, 6}), 1e-5, 1e-5));
  EXPECT_TRUE(weights.parameters[1].grad().equal(torch::ones({3, 6})));
  EXPECT_TRUE(at::allclose(weights.parameters[0].grad(), 1 + x.sum(0).expand({4, 6}), 1e-5, 1e-5));
}

TEST(FusedGradAccumulation, TakesWeightsWithoutAGradient) {
  const Tensor x = torch::ones({5, 6});
  const Tensor weight = torch::ones({3, 6}).requires_grad_();
  const ComputeScope region(test::accumulating_in_place());
  halftone::linear(x, weight).sum().backward();
  EXPECT_TRUE(weight.grad().equal(torch::full({3, 6}, 5.0F)));
}

TEST(FusedGradAccumulation, IsOffOutsideABackward) {
  const Weights weights;
  const ComputeContext context = test::accumulating_in_place();
  EXPECT_FALSE(weight_grad_in_place(context, weights.parameters).defined());
}

// As autograd's threads of other devices do.
TEST(FusedGradAccumulation, FollowsTheForwardPassToAnotherThread) {
  const Weights weights;
  Tensor y;
  {
    const ComputeScope region(test::accumulating_in_place());
    y = merged_linear(torch::ones({5, 6}), weights.parameters);
  }
  const void* memory = weights.parameters[0].grad().data_ptr();
  const auto version = weights.parameters[0].grad()._version();
  std::thread([&] { y.sum().backward(); }).join();
  EXPECT_EQ(weights.parameters[0].grad().data_ptr(), memory);
  EXPECT_GT(weights.parameters[0].grad()._version(), version);
  EXPECT_TRUE(weights.grad().equal(torch::full({7, 6}, 6.0F)));
}

}  // namespace
}  // namespace halftone::fused_grad_accumulation_test
