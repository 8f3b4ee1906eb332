// SPDX-License-Identifier: Apache-2.0
#include <ATen/Functions.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/kernels/gemm/fast_cpu_gemms.h"
#include "support/gemm_config_scope.h"

namespace halftone::fast_cpu_gemms_autograd_test {
namespace {

using test::conversions_in;
using torch::ScalarType;
using torch::Tensor;

constexpr double kInf = std::numeric_limits<double>::infinity();

std::vector<ScalarType> halves() { return {torch::kBFloat16, torch::kHalf}; }

/// Half a unit in the last place of the format, with room for the order of fp32 sums.
double rounding_of(ScalarType dtype) { return dtype == torch::kBFloat16 ? 0x1p-8 : 0x1p-11; }

Tensor wide(const Tensor& tensor) { return tensor.to(torch::kDouble); }

class FastCpuGemmsAutograd : public test::FastCpuGemmsTest {};

INSTANTIATE_TEST_SUITE_P(Ways, FastCpuGemmsAutograd, testing::Values("native", "upcast"),
                         [](const auto& instance) { return instance.param; });

double relative_error(const Tensor& actual, const Tensor& exact) {
  return ((wide(actual) - exact).norm() / exact.norm()).item<double>();
}

using Function = std::function<Tensor(const std::vector<Tensor>&)>;

/// Gradients of sum(f * g), and of the squares of these gradients, in the dtype of `inputs`.
std::vector<Tensor> gradients(const Function& f, std::vector<Tensor> inputs, const Tensor& weight) {
  for (Tensor& input : inputs) input.requires_grad_();
  const Tensor y = f(inputs);
  auto first = torch::autograd::grad({(y * weight.to(y.scalar_type())).sum()}, inputs, {}, true,
                                     /*create_graph=*/true);
  Tensor squares = at::zeros({}, inputs[0].options());
  for (const Tensor& gradient : first) squares = squares + gradient.square().sum();
  const auto second =
      torch::autograd::grad({squares}, inputs, {}, true, false, /*allow_unused=*/true);
  std::vector<Tensor> all = first;
  for (const Tensor& gradient : second)
    if (gradient.defined()) all.push_back(gradient.detach());
  return all;
}

TEST_P(FastCpuGemmsAutograd, GradientsAndSecondGradientsAgreeWithFp64) {
  struct Case {
    const char* name;
    std::vector<std::vector<std::int64_t>> sizes;
    Function f;
  };
  const std::vector<Case> cases = {
      {"mm", {{20, 30}, {30, 25}}, [](const auto& x) { return at::mm(x[0], x[1]); }},
      {"addmm",
       {{25}, {20, 30}, {30, 25}},
       [](const auto& x) { return at::addmm(x[0], x[1], x[2], 0.5, 1.5); }},
      {"bmm", {{3, 20, 30}, {3, 30, 25}}, [](const auto& x) { return at::bmm(x[0], x[1]); }},
      {"baddbmm",
       {{3, 20, 25}, {3, 20, 30}, {3, 30, 25}},
       [](const auto& x) { return at::baddbmm(x[0], x[1], x[2], -0.5, 1.5); }},
      {"linear",
       {{4, 10, 30}, {25, 30}, {25}},
       [](const auto& x) { return at::linear(x[0], x[1], x[2]); }},
      {"matmul",
       {{2, 3, 20, 30}, {3, 30, 25}},
       [](const auto& x) { return at::matmul(x[0], x[1]); }},
      {"in place", {{20, 30}, {30, 25}}, [](const auto& x) {
         return at::zeros({20, 25}, x[0].options()).addmm_(x[0], x[1]);
       }}};
  for (const ScalarType dtype : halves()) {
    for (const Case& one : cases) {
      SCOPED_TRACE(one.name);
      std::vector<Tensor> inputs, exact_inputs;
      for (const auto& sizes : one.sizes) {
        inputs.push_back((at::randn(sizes) * 0.3).to(dtype));
        exact_inputs.push_back(wide(inputs.back()));
      }
      const Tensor weight = at::randn(one.f(inputs).sizes()).to(dtype);
      const std::vector<Tensor> ours = gradients(one.f, inputs, weight);
      const std::vector<Tensor> exact = gradients(one.f, exact_inputs, weight);
      ASSERT_EQ(ours.size(), exact.size());
      for (std::size_t i = 0; i < ours.size(); ++i)
        EXPECT_LT(relative_error(ours[i].detach(), exact[i].detach()), 2 * rounding_of(dtype)) << i;
    }
  }
}

TEST_P(FastCpuGemmsAutograd, AutocastInsideAndOutsideOfTheBackwardPass) {
  for (const ScalarType dtype : halves()) {
    Tensor x = at::randn({20, 30}).requires_grad_();
    Tensor w = at::randn({25, 30}).requires_grad_();
    const Tensor g = at::randn({20, 25}).to(dtype);
    Tensor in_place = at::zeros({20, 25}, dtype);
    {
      const Autocast autocast(torch::kCPU, dtype);
      const Tensor y = at::linear(x, w);
      EXPECT_EQ(y.scalar_type(), dtype);
      y.backward(g);
      const Tensor x16 = x.detach().to(dtype);
      in_place.addmm_(x16, w.detach().to(dtype).t());  // autocast has no rule for it
      EXPECT_EQ(at::mm(x16, x16.t()).scalar_type(), dtype);
    }
    EXPECT_EQ(w.grad().scalar_type(), torch::kFloat);
    const Tensor x64 = wide(x.detach().to(dtype));
    const Tensor w64 = wide(w.detach().to(dtype));
    EXPECT_LT(relative_error(w.grad(), wide(g).t().mm(x64)), rounding_of(dtype));
    EXPECT_LT(relative_error(x.grad(), wide(g).mm(w64)), rounding_of(dtype));
    EXPECT_LT(relative_error(in_place, x64.mm(w64.t())), rounding_of(dtype));
  }
}

Tensor attention_definition(const std::vector<Tensor>& x, const Tensor& mask) {
  const Tensor scores =
      x[0].matmul(x[1].transpose(-1, -2)) / std::sqrt(static_cast<double>(x[0].size(-1)));
  return (scores + mask).softmax(-1).matmul(x[2]);
}

TEST_P(FastCpuGemmsAutograd, AttentionAndItsGradientsAgreeWithFp64) {
  const Tensor causal = at::full({9, 9}, -kInf, torch::kDouble).triu(1);
  const Tensor added = at::randn({9, 9}, torch::kDouble).to(torch::kBFloat16).to(torch::kDouble);
  for (const ScalarType dtype : halves()) {
    for (const bool is_causal : {true, false}) {
      std::vector<Tensor> ours, exact;
      for (int i = 0; i < 3; ++i) {
        ours.push_back(at::randn({2, 3, 9, 16}).to(dtype));
        exact.push_back(wide(ours.back()).requires_grad_());
        ours.back().requires_grad_();
      }
      const auto mask = is_causal ? std::optional<Tensor>() : added.to(dtype);
      const Tensor y =
          at::scaled_dot_product_attention(ours[0], ours[1], ours[2], mask, 0, is_causal);
      EXPECT_EQ(y.scalar_type(), dtype);
      const Tensor expected =
          attention_definition(exact, is_causal ? causal : wide(added.to(dtype)));
      EXPECT_LT(relative_error(y.detach(), expected.detach()), 2 * rounding_of(dtype));
      const Tensor g = at::randn(y.sizes()).to(dtype);
      y.backward(g);
      expected.backward(wide(g));
      for (int i = 0; i < 3; ++i)
        EXPECT_LT(relative_error(ours[i].grad(), exact[i].grad()), 4 * rounding_of(dtype)) << i;
    }
    const Tensor q = at::randn({1, 2, 32, 16}).to(dtype);
    const int taken = conversions_in([&] { at::scaled_dot_product_attention(q, q, q); });
    EXPECT_EQ(taken > 0, upcasts());
  }
}

}  // namespace
}  // namespace halftone::fast_cpu_gemms_autograd_test
