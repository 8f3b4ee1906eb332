// SPDX-License-Identifier: Apache-2.0
// Compares a fused operation with its definition in fp64, values and gradients.
#pragma once

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include <functional>
#include <vector>

namespace halftone::test {

using Operation = std::function<std::vector<torch::Tensor>(const std::vector<torch::Tensor>&)>;

struct ValuesAndGradients {
  std::vector<torch::Tensor> values;
  std::vector<torch::Tensor> gradients;
};

/// Of `operation` at `inputs` (undefined ones stay so), for gradients of its results that are the
/// same numbers in every dtype.
inline ValuesAndGradients differentiate(const Operation& operation,
                                        const std::vector<torch::Tensor>& inputs) {
  std::vector<torch::Tensor> leaves, wanted;
  for (const torch::Tensor& input : inputs) {
    leaves.push_back(input.defined() ? input.detach().requires_grad_() : input);
    if (input.defined()) wanted.push_back(leaves.back());
  }
  ValuesAndGradients result{.values = operation(leaves), .gradients = {}};
  std::vector<torch::Tensor> grads;
  for (const torch::Tensor& value : result.values) {
    const torch::Tensor numbers = at::arange(value.numel(), torch::kDouble).mul(0.7).sin();
    grads.push_back(numbers.view(value.sizes()).to(value.device(), value.scalar_type()));
  }
  result.gradients = torch::autograd::grad(result.values, wanted, grads);
  return result;
}

inline double relative_error(const torch::Tensor& actual, const torch::Tensor& expected) {
  const torch::Tensor wide = expected.to(torch::kCPU, torch::kDouble);
  if (wide.numel() == 0) return 0.0;
  const double norm = wide.norm().item<double>();
  return (actual.to(torch::kCPU, torch::kDouble) - wide).norm().item<double>() /
         (norm > 0.0 ? norm : 1.0);
}

/// `fused` of `inputs` against `definition` of the same numbers in fp64.
inline void expect_equals_definition(const Operation& fused, const Operation& definition,
                                     const std::vector<torch::Tensor>& inputs, double tolerance) {
  std::vector<torch::Tensor> wide;
  for (const torch::Tensor& input : inputs)
    wide.push_back(input.defined() ? input.to(torch::kDouble) : input);
  const ValuesAndGradients actual = differentiate(fused, inputs);
  const ValuesAndGradients expected = differentiate(definition, wide);
  for (std::size_t i = 0; i < expected.values.size(); ++i)
    EXPECT_LT(relative_error(actual.values[i], expected.values[i]), tolerance) << "value " << i;
  for (std::size_t i = 0; i < expected.gradients.size(); ++i)
    EXPECT_LT(relative_error(actual.gradients[i], expected.gradients[i]), tolerance)
        << "gradient " << i;
}

/// The gradients of `fused` at `inputs` against central differences of `definition` in fp64, one
/// element at a time.
inline void expect_gradients_are_slopes(const Operation& fused, const Operation& definition,
                                        const std::vector<torch::Tensor>& inputs,
                                        double tolerance) {
  constexpr double kStep = 1e-5;
  const auto weighted_sum = [&](const std::vector<torch::Tensor>& at) {
    double sum = 0;
    for (const torch::Tensor& value : definition(at)) {
      const torch::Tensor weights = at::arange(value.numel(), torch::kDouble).mul(0.7).sin();
      sum += (value.flatten() * weights).sum().item<double>();
    }
    return sum;
  };
  const ValuesAndGradients actual = differentiate(fused, inputs);
  const torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> wide;
  for (const torch::Tensor& input : inputs) wide.push_back(input.to(torch::kDouble).clone());
  for (std::size_t i = 0; i < wide.size(); ++i) {
    for (std::int64_t j = 0; j < wide[i].numel(); ++j) {
      const torch::Tensor element = wide[i].view(-1)[j];
      const double value = element.item<double>();
      element.fill_(value + kStep);
      const double above = weighted_sum(wide);
      element.fill_(value - kStep);
      const double below = weighted_sum(wide);
      element.fill_(value);
      EXPECT_NEAR(actual.gradients[i].flatten()[j].item<double>(), (above - below) / (2 * kStep),
                  tolerance)
          << "input " << i << ", element " << j;
    }
  }
}

/// Whether `operation` gives the same bits on one thread and on two.
inline bool is_thread_independent(const Operation& operation,
                                  const std::vector<torch::Tensor>& inputs) {
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const ValuesAndGradients one = differentiate(operation, inputs);
  at::set_num_threads(2);
  const ValuesAndGradients two = differentiate(operation, inputs);
  at::set_num_threads(before);
  bool same = true;
  for (std::size_t i = 0; i < one.values.size(); ++i)
    same = same && one.values[i].equal(two.values[i]);
  for (std::size_t i = 0; i < one.gradients.size(); ++i)
    same = same && one.gradients[i].equal(two.gradients[i]);
  return same;
}

/// What fp32, bf16 and fp16 results may differ from those in fp64, as a share.
inline double tolerance_of(torch::ScalarType dtype) {
  if (dtype == torch::kFloat) return 2e-6;
  return dtype == torch::kHalf ? 1.5e-3 : 1e-2;
}

}  // namespace halftone::test
