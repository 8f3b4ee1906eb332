// SPDX-License-Identifier: Apache-2.0
#include <ATen/Functions.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>
#include <string>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/kernels/gemm/fast_cpu_gemms.h"
#include "support/gemm_config_scope.h"

namespace halftone::fast_cpu_convolutions_test {
namespace {

using test::conversions_in;
using test::GemmConfigScope;
using torch::ScalarType;
using torch::Tensor;

std::vector<ScalarType> halves() { return {torch::kBFloat16, torch::kHalf}; }

/// A rounding to the format; LibTorch's own kernels round a matmul before they add the bias.
double rounding_of(ScalarType dtype) { return dtype == torch::kBFloat16 ? 0x1p-8 : 0x1p-11; }

struct Setting {
  std::vector<std::int64_t> input;
  std::vector<std::int64_t> weight;
  std::int64_t stride = 1;
  std::int64_t padding = 0;
  std::int64_t dilation = 1;
  std::int64_t groups = 1;
  bool transposed = false;
  std::int64_t output_padding = 0;
};

std::vector<Setting> settings() {
  return {{.input = {2, 5, 61}, .weight = {7, 5, 3}, .padding = 1},
          {.input = {2, 6, 61}, .weight = {6, 4, 4}, .stride = 2, .transposed = true},
          {.input = {3, 6, 13, 11}, .weight = {10, 6, 3, 3}, .stride = 2, .padding = 1},
          {.input = {2, 6, 13, 11}, .weight = {8, 3, 3, 3}, .dilation = 2, .groups = 2},
          {.input = {2, 12, 13, 11}, .weight = {12, 1, 3, 3}, .padding = 1, .groups = 12},
          {.input = {1, 12, 13, 11}, .weight = {9, 12, 1, 1}},
          {.input = {2, 6, 9, 7},
           .weight = {6, 4, 4, 4},
           .stride = 2,
           .padding = 1,
           .groups = 2,
           .transposed = true,
           .output_padding = 1},
          {.input = {2, 4, 5, 7, 6}, .weight = {6, 4, 3, 3, 3}, .padding = 1},
          {.input = {2, 4, 5, 4, 3}, .weight = {4, 3, 2, 3, 2}, .stride = 2, .transposed = true}};
}

Tensor convolve(const Setting& setting, const Tensor& x, const Tensor& w, const Tensor& bias) {
  const auto all = [&](std::int64_t value) {
    return std::vector<std::int64_t>(setting.weight.size() - 2, value);
  };
  return at::convolution(x, w, bias, all(setting.stride), all(setting.padding),
                         all(setting.dilation), setting.transposed, all(setting.output_padding),
                         setting.groups);
}

struct Results {
  Tensor y;
  std::vector<Tensor> gradients;
};

Results results_of(const Setting& setting, std::vector<Tensor> inputs) {
  for (Tensor& input : inputs) input = input.detach().requires_grad_();
  const Tensor y = convolve(setting, inputs[0], inputs[1], inputs[2]);
  const Tensor weights = at::arange(y.numel(), torch::kFloat).remainder(5).sub(2).view(y.sizes());
  return {y.detach(), torch::autograd::grad({y}, inputs, {weights.to(y.scalar_type())})};
}

std::vector<Tensor> inputs_of(const Setting& setting, ScalarType dtype) {
  const std::int64_t channels =
      setting.transposed ? setting.weight[1] * setting.groups : setting.weight[0];
  return {at::randn(setting.input).to(dtype), at::randn(setting.weight).to(dtype),
          at::randn({channels}).to(dtype)};
}

std::vector<Tensor> in_fp64(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> wide;
  for (const Tensor& tensor : tensors) wide.push_back(tensor.to(torch::kDouble));
  return wide;
}

void expect_close(const Tensor& actual, const Tensor& exact) {
  ASSERT_EQ(actual.sizes(), exact.sizes());
  const double error = (actual.to(torch::kDouble) - exact).norm().item<double>();
  EXPECT_LE(error, 2 * rounding_of(actual.scalar_type()) * exact.norm().item<double>());
}

class FastCpuConvolutions : public test::FastCpuGemmsTest {};

INSTANTIATE_TEST_SUITE_P(Ways, FastCpuConvolutions, testing::Values("native", "upcast"),
                         [](const auto& instance) { return instance.param; });

TEST_P(FastCpuConvolutions, ResultsAndGradientsAgreeWithFp64InLibTorchsForm) {
  for (const ScalarType dtype : halves()) {
    for (const Setting& setting : settings()) {
      const std::vector<Tensor> inputs = inputs_of(setting, dtype);
      const Results ours = results_of(setting, inputs);
      const Results exact = results_of(setting, in_fp64(inputs));
      const OriginalCpuGemms original;
      const Results theirs = results_of(setting, inputs);
      expect_close(ours.y, exact.y);
      EXPECT_EQ(ours.y.strides(), theirs.y.strides());
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        SCOPED_TRACE(i);
        EXPECT_EQ(ours.gradients[i].scalar_type(), dtype);
        EXPECT_EQ(ours.gradients[i].strides(), theirs.gradients[i].strides());
        expect_close(ours.gradients[i], exact.gradients[i]);
      }
    }
  }
}

TEST_P(FastCpuConvolutions, KeepMemoryFormats) {
  const auto last = at::MemoryFormat::ChannelsLast;
  for (const ScalarType dtype : halves()) {
    const Setting setting = settings()[2];
    std::vector<Tensor> inputs = inputs_of(setting, dtype);
    inputs[0] = inputs[0].contiguous(last);
    const Results ours = results_of(setting, inputs);
    EXPECT_TRUE(ours.y.is_contiguous(last));
    const OriginalCpuGemms original;
    const Results theirs = results_of(setting, inputs);
    for (std::size_t i = 0; i < inputs.size(); ++i)
      EXPECT_EQ(ours.gradients[i].strides(), theirs.gradients[i].strides()) << i;
  }
}

TEST_P(FastCpuConvolutions, TakeThePathInForceAndLeaveOtherDtypesAlone) {
  const Setting setting = settings()[2];
  for (const ScalarType dtype : halves()) {
    const std::vector<Tensor> inputs = inputs_of(setting, dtype);
    const auto convolving = [&] { convolve(setting, inputs[0], inputs[1], inputs[2]); };
    EXPECT_EQ(conversions_in(convolving), upcasts() ? 4 : 0);
    const OriginalCpuGemms original;
    EXPECT_EQ(conversions_in(convolving), 0);
  }
  const std::vector<Tensor> fp32 = inputs_of(setting, torch::kFloat);
  EXPECT_EQ(conversions_in([&] { convolve(setting, fp32[0], fp32[1], fp32[2]); }), 0);
}

TEST(FastCpuConvolutionsChoice, EachGradientTakesItsOwnPath) {
  ASSERT_TRUE(use_fast_cpu_gemms());
  for (const bool transposed : {false, true}) {
    const Setting setting{.input = {2, 8, 9, 9}, .weight = {8, 8, 3, 3}, .transposed = transposed};
    const std::vector<Tensor> inputs = inputs_of(setting, torch::kHalf);
    const Tensor y = convolve(setting, inputs[0], inputs[1], inputs[2]);
    const auto backward = [&] {
      at::convolution_backward(at::ones_like(y), inputs[0], inputs[1], std::vector<std::int64_t>{8},
                               {1, 1}, {0, 0}, {1, 1}, transposed, {0, 0}, 1, {true, true, false});
    };
    const std::string input = transposed ? "convolution" : "convolution_input_gradient";
    {
      const GemmConfigScope scope("native,fp16." + input + "=upcast");
      EXPECT_EQ(conversions_in(backward), 4);  // three operands and a result
    }
    const GemmConfigScope scope("native,fp16.convolution_weight_gradient=upcast");
    EXPECT_EQ(conversions_in(backward), 4);
  }
}

TEST_P(FastCpuConvolutions, EmptyBatchesInfinitiesAndMisuseAreAsBefore) {
  const double inf = std::numeric_limits<double>::infinity();
  for (const ScalarType dtype : halves()) {
    const Tensor w = at::ones({8, 6, 3, 3}, dtype);
    EXPECT_EQ(at::conv2d(at::ones({0, 6, 9, 9}, dtype), w).sizes(),
              (std::vector<std::int64_t>{0, 8, 7, 7}));
    Tensor x = at::ones({1, 6, 9, 9}, dtype);
    x[0][2][0][0] = inf;
    x[0][3][8][8] = std::numeric_limits<double>::quiet_NaN();
    const Tensor y = at::conv2d(x, w);
    EXPECT_EQ(y[0][0][0][0].item<double>(), inf);
    EXPECT_TRUE(y[0][0][6][6].isnan().item<bool>());
    EXPECT_EQ(y[0][0][3][3].item<double>(), 54);
    EXPECT_THROW(at::conv2d(x, w.to(torch::kFloat)), c10::Error);
    EXPECT_THROW(at::conv2d(x.narrow(1, 0, 5), w), c10::Error);
    EXPECT_THROW(at::conv2d(x, w, at::ones({8})), c10::Error);
    EXPECT_THROW(at::conv2d(x.narrow(3, 0, 2), w), c10::Error);
  }
}

}  // namespace
}  // namespace halftone::fast_cpu_convolutions_test
