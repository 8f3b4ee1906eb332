// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/conv2d.h"

#include <ATen/ops/conv2d.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/autocast/keep_fp32.h"
#include "halftone/core/error.h"
#include "halftone/kernels/linear/layer_formats.h"
#include "halftone/kernels/linear/linear.h"
#include "support/compute_contexts.h"
#include "support/fused_op.h"
#include "support/gemm_config_scope.h"
#include "support/message_of.h"
#include "support/on_devices.h"
#include "support/tensor_memory.h"

namespace halftone::conv2d_test {
namespace {

using test::relative_error;
using testing::HasSubstr;
using torch::Tensor;

/// Relative errors, in norm, that rounding to the format makes at least and at most.
struct Errors {
  double least;
  double most;
};

Errors errors_of(ComputeType type) {
  switch (type) {
    case ComputeType::kFloat32:
      return {0, 1e-5};
    case ComputeType::kBFloat16:
      return {5e-4, 8e-3};
    case ComputeType::kFloat16:
      return {5e-5, 1e-3};
    case ComputeType::kInt8:
      return {1e-3, 3e-2};
    default:
      return {1e-2, 1e-1};
  }
}

struct Case {
  std::int64_t channels, height, width, out;
  WindowGrid grid;
};

std::vector<Case> cases() {
  return {
      {3, 9, 7, 10, {.kernel = {3, 3}, .padding = {1, 1}}},
      {5, 11, 8, 4, {.kernel = {3, 2}, .stride = {2, 1}, .padding = {1, 0}, .dilation = {2, 3}}},
      {3, 13, 9, 12, {.kernel = {4, 3}, .stride = {4, 3}}},  // tiles, with a rest
      {16, 5, 7, 9, {.kernel = {1, 1}}},
      {7, 8, 9, 6, {.kernel = {1, 1}, .stride = {2, 2}}}};
}

struct Results {
  Tensor y;
  std::vector<Tensor> grads;  // of x, weight, bias
  Tensor g;                   // of y
};

/// Of a convolution and of gradients g that are the same numbers in every dtype.
template <class Convolution>
Results results_of(const Convolution& convolution, const std::vector<Tensor>& inputs) {
  std::vector<Tensor> leaves;
  for (const Tensor& input : inputs) leaves.push_back(input.detach().requires_grad_());
  Results results{.y = convolution(leaves[0], leaves[1], leaves[2]), .grads = {}, .g = {}};
  const Tensor numbers = torch::arange(results.y.numel(), torch::kDouble).mul(0.7).sin();
  const Tensor g = numbers.view(results.y.sizes()).to(results.y.device(), results.y.scalar_type());
  results.grads = torch::autograd::grad({results.y}, leaves, {g});
  results.g = g;
  return results;
}

Results ours(const std::vector<Tensor>& inputs, const WindowGrid& grid) {
  return results_of([&](const Tensor& x, const Tensor& w,
                        const Tensor& b) { return halftone::conv2d(x, w, b, grid); },
                    inputs);
}

Results exact(const std::vector<Tensor>& inputs, const WindowGrid& grid) {
  std::vector<Tensor> wide;
  for (const Tensor& input : inputs) wide.push_back(input.cpu().to(torch::kDouble));
  return results_of(
      [&](const Tensor& x, const Tensor& w, const Tensor& b) {
        return at::conv2d(x, w, b, grid.stride, grid.padding, grid.dilation);
      },
      wide);
}

std::vector<Tensor> inputs_of(const Case& c) {
  return {torch::randn({4, c.channels, c.height, c.width}),
          torch::randn({c.out, c.channels, c.grid.kernel[0], c.grid.kernel[1]}),
          torch::randn({c.out})};
}

/// Restores the limit that was in force.
class PartLimit {
 public:
  explicit PartLimit(std::int64_t limit) : before_(unfolded_part_limit()) {
    set_unfolded_part_limit(limit);
  }
  ~PartLimit() { set_unfolded_part_limit(before_); }
  PartLimit(const PartLimit&) = delete;
  PartLimit& operator=(const PartLimit&) = delete;

 private:
  std::int64_t before_;
};

class Conv2dOn : public test::OnDevices {
 protected:
  void SetUp() override {
    OnDevices::SetUp();
    torch::manual_seed(1);
  }
  /// What `run` gives where layers compute in `type`.
  template <class Run>
  auto under(ComputeType type, const Run& run) const {
    const torch::ScalarType dtype = tensor_dtype(type);
    const Autocast autocast(device().type(), dtype, dtype != torch::kFloat);
    const ComputeScope scope(test::computing_in(type, 3));
    return run();
  }
};
HALFTONE_ON_DEVICES(Conv2dOn);

TEST_P(Conv2dOn, RoundsAsItsFormatForwardAndBackward) {
  for (const Case& c : cases()) {
    const std::vector<Tensor> inputs = inputs_of(c);
    const Results expected = exact(inputs, c.grid);
    for (const ComputeType type : compute_types()) {
      SCOPED_TRACE(std::string(to_string(type)));
      const Results found = under(type, [&] { return ours(here(inputs), c.grid); });
      EXPECT_EQ(found.y.scalar_type(), tensor_dtype(type));
      const Errors errors = errors_of(type);
      const double y = relative_error(found.y, expected.y);
      EXPECT_GE(y, errors.least);
      EXPECT_LE(y, errors.most);
      for (std::size_t i = 0; i < 2; ++i) {
        EXPECT_EQ(found.grads[i].scalar_type(), torch::kFloat);
        const double error = relative_error(found.grads[i], expected.grads[i]);
        EXPECT_LE(error, errors.most) << "gradient " << i;
        // fp8 computes the gradient of the weight in bf16.
        const bool narrow = i == 0 || tensor_dtype(type) == torch::kFloat;
        EXPECT_GE(error, narrow ? errors.least
                                : errors_of(compute_type_of(tensor_dtype(type)).value()).least / 2)
            << "gradient " << i;
      }
      const Tensor g = found.g.cpu().to(torch::kDouble);  // whose sums nearly cancel out
      const Tensor apart = (found.grads[2].cpu() - g.sum({0, 2, 3})).abs();
      EXPECT_TRUE((apart <= errors.most * g.abs().sum({0, 2, 3})).all().item<bool>());
    }
  }
}

TEST(Conv2d, SixteenBitsTakeEitherPathOfTheCpu) {
  torch::manual_seed(2);
  for (const char* path : {"native", "upcast", "bf16=native,fp16=upcast"}) {
    SCOPED_TRACE(path);
    const test::GemmConfigScope ways(path);
    for (const Case& c : cases()) {
      const std::vector<Tensor> inputs = inputs_of(c);
      for (const ComputeType type : {ComputeType::kBFloat16, ComputeType::kFloat16}) {
        const torch::ScalarType dtype = tensor_dtype(type);
        std::vector<Tensor> rounded;
        for (const Tensor& input : inputs) rounded.push_back(input.to(dtype));
        const Results expected = exact(rounded, c.grid);
        const Autocast autocast(torch::kCPU, dtype);
        const Results found = ours(inputs, c.grid);
        // Operands are exact now: the result is rounded, and where there is a bias of its own in
        // 16 bits, once more.
        EXPECT_LE(relative_error(found.y, expected.y), dtype == torch::kHalf ? 1e-3 : 6e-3);
        for (std::size_t i = 0; i < 2; ++i)
          EXPECT_LE(relative_error(found.grads[i], expected.grads[i]),
                    dtype == torch::kHalf ? 1e-3 : 6e-3);
      }
    }
  }
}

// Windows that tile the picture too.
TEST(Conv2d, AddsTheWeightGradientUpInTheDtypeOfGrad) {
  torch::manual_seed(4);
  const test::GemmConfigScope ways("upcast");
  const Case c{3, 8, 9, 12, {.kernel = {4, 3}, .stride = {4, 3}}};
  std::vector<Tensor> inputs = inputs_of(c);
  for (Tensor& input : inputs) input = input.to(torch::kBFloat16);
  const Tensor expected = exact(inputs, c.grid).grads[1];
  for (const ComputeType type : {ComputeType::kBFloat16, ComputeType::kInt8}) {
    const Autocast autocast(torch::kCPU, torch::kBFloat16);
    const ComputeScope scope(test::computing_in(type, 3));
    Tensor weight = inputs[1].detach().clone().requires_grad_();
    weight.set_grad_dtype(torch::kFloat);
    const Tensor y = halftone::conv2d(inputs[0], weight, inputs[2], c.grid);
    const Tensor g = torch::arange(y.numel(), torch::kDouble).mul(0.7).sin().view(y.sizes());
    y.backward(g.to(torch::kBFloat16));
    const Tensor grad = weight.grad();
    ASSERT_EQ(grad.scalar_type(), torch::kFloat);
    EXPECT_GT(relative_error(grad.to(torch::kBFloat16), grad), 1e-4) << "rounded to bf16";
    EXPECT_LE(relative_error(grad, expected), errors_of(type).most);
  }
}

TEST_P(Conv2dOn, EqualsLinearOfUnfoldedRowsToTheBit) {
  const Case c{6, 9, 8, 5, {.kernel = {3, 3}, .padding = {1, 1}}};
  const std::vector<Tensor> inputs = here(inputs_of(c));
  for (const ComputeType type : compute_types()) {
    if (!is_quantized(type)) continue;
    under(type, [&] {
      const Tensor rows = unfold_rows(inputs[0], c.grid, {0, 4, 0, 9});
      const Tensor linear = halftone::linear(rows, inputs[1].flatten(1));
      const Tensor expected =
          (linear + inputs[2].to(linear.scalar_type())).view({4, 9, 8, 5}).permute({0, 3, 1, 2});
      EXPECT_TRUE(halftone::conv2d(inputs[0], inputs[1], inputs[2], c.grid).equal(expected))
          << to_string(type);
      return 0;
    });
  }
}

// Rows are quantized by themselves in int8 and fp8-row: parts change no forward number.
TEST_P(Conv2dOn, PartsGiveTheSameNumbers) {
  const Case c{6, 9, 8, 5, {.kernel = {3, 3}, .padding = {1, 1}}};
  const std::vector<Tensor> inputs = here(inputs_of(c));
  const Results expected = exact(inputs, c.grid);
  for (const ComputeType type : {ComputeType::kInt8, ComputeType::kFloat8Rows}) {
    const Results whole = under(type, [&] { return ours(inputs, c.grid); });
    for (const std::int64_t limit : {1, 2 * 8 * 54, 9 * 8 * 54 * 3}) {
      const PartLimit parts(limit);
      const Results found = under(type, [&] { return ours(inputs, c.grid); });
      EXPECT_TRUE(found.y.equal(whole.y)) << limit;
      for (std::size_t i = 0; i < 2; ++i)
        EXPECT_LE(relative_error(found.grads[i], expected.grads[i]), errors_of(type).most);
    }
  }
}

TEST(Conv2d, UnfoldsNoMoreThanAPart) {
  const Tensor x = torch::randn({4, 16, 32, 32}), weight = torch::randn({8, 16, 3, 3});
  const WindowGrid grid{.kernel = {3, 3}, .padding = {1, 1}};
  constexpr std::int64_t kUnfolded = std::int64_t{4} * 32 * 32 * 16 * 9 * 4;  // bytes
  const auto peak = [&](std::int64_t limit) {
    const PartLimit parts(limit);
    const ComputeScope scope(test::computing_in(ComputeType::kInt8, 1));
    const test::TensorMemory memory;
    const Tensor input = x.clone().requires_grad_(), w = weight.clone().requires_grad_();
    const Tensor y = halftone::conv2d(input, w, {}, grid);
    const std::int64_t forward = memory.peak();
    const auto grads = torch::autograd::grad({y}, {input, w}, {torch::ones_like(y)});
    return std::max(forward, memory.peak());
  };
  peak(std::int64_t{1} << 22U);  // what libraries make once
  EXPECT_GT(peak(std::int64_t{1} << 22U), kUnfolded);
  EXPECT_LT(peak(std::int64_t{1} << 14U), kUnfolded / 2);
}

TEST_P(Conv2dOn, KeepsTheMemoryFormatOfItsInput) {
  const Case c{8, 6, 6, 8, {.kernel = {3, 3}, .padding = {1, 1}}};
  for (const Case& one : {c, Case{8, 6, 6, 8, {.kernel = {2, 2}, .stride = {2, 2}}}}) {
    const std::vector<Tensor> inputs = here(inputs_of(one));
    const Tensor last = inputs[0].contiguous(at::MemoryFormat::ChannelsLast);
    for (const ComputeType type : {ComputeType::kFloat32, ComputeType::kInt8}) {
      under(type, [&] {
        const Tensor plain = halftone::conv2d(inputs[0], inputs[1], inputs[2], one.grid);
        const Tensor other = halftone::conv2d(last, inputs[1], inputs[2], one.grid);
        EXPECT_TRUE(plain.is_contiguous());
        EXPECT_TRUE(other.is_contiguous(at::MemoryFormat::ChannelsLast));
        EXPECT_LT(relative_error(other, plain), 1e-6);
        return 0;
      });
    }
  }
}

TEST_P(Conv2dOn, TakesNoPictures) {
  for (const Case& c : cases()) {
    std::vector<Tensor> inputs = here(inputs_of(c));
    inputs[0] = inputs[0].narrow(0, 0, 0);
    for (const ComputeType type : compute_types()) {
      const Results found = under(type, [&] { return ours(inputs, c.grid); });
      EXPECT_EQ(found.y.size(0), 0);
      EXPECT_EQ(found.y.size(1), c.out);
      for (std::size_t i = 1; i < 3; ++i)
        EXPECT_TRUE(found.grads[i].cpu().equal(torch::zeros(inputs[i].sizes())));
    }
  }
}

TEST_P(Conv2dOn, WhatIsNotFiniteStaysVisible) {
  const Case c{3, 6, 6, 4, {.kernel = {3, 3}, .padding = {1, 1}}};
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<Tensor> inputs = inputs_of(c);
    inputs[0][1][2][3][3] = bad;
    for (const ComputeType type : compute_types()) {
      const Tensor y = under(type, [&] {
        return halftone::conv2d(here(inputs[0]), here(inputs[1]), here(inputs[2]), c.grid);
      });
      EXPECT_FALSE(y[1][0][3][3].isfinite().item<bool>()) << to_string(type);
      if (type == ComputeType::kFloat8) continue;  // one scale for all
      EXPECT_TRUE(y[0].isfinite().all().item<bool>()) << to_string(type);
    }
  }
}

TEST_P(Conv2dOn, AMarkedWeightStaysInFp32) {
  const Case c = cases().front();
  const std::vector<Tensor> inputs = here(inputs_of(c));
  const Tensor wide = halftone::conv2d(inputs[0], inputs[1], inputs[2], c.grid);
  mark_keep_fp32(inputs[1]);
  for (const ComputeType type : compute_types()) {
    const Tensor y =
        under(type, [&] { return halftone::conv2d(inputs[0], inputs[1], inputs[2], c.grid); });
    EXPECT_TRUE(y.equal(wide)) << to_string(type);
  }
  unmark_keep_fp32(inputs[1]);
}

TEST_P(Conv2dOn, ALayerMayHaveAFormatOfItsOwn) {
  const Case c = cases().front();
  const std::vector<Tensor> inputs = here(inputs_of(c));
  const auto convolved = [&] { return halftone::conv2d(inputs[0], inputs[1], inputs[2], c.grid); };
  const auto formats = std::make_shared<LayerFormats>();
  formats->set(inputs[1], ComputeType::kBFloat16);
  const Tensor expected = under(ComputeType::kBFloat16, convolved);
  const Tensor found = under(ComputeType::kInt8, [&] {
    ComputeContext context = compute_context();
    context.layer_formats = formats;
    const ComputeScope scope(std::move(context));
    return convolved();
  });
  EXPECT_EQ(found.scalar_type(), torch::kFloat);
  EXPECT_LT(relative_error(found, expected), 3e-3);  // the bias joins in fp32 on one path
}

TEST_P(Conv2dOn, GroupsAreForFormatsOfLibTorchs) {
  const Tensor x = here(torch::randn({2, 6, 5, 5})), weight = here(torch::randn({6, 1, 3, 3}));
  const WindowGrid grid{.kernel = {3, 3}, .padding = {1, 1}};
  const Tensor expected = at::conv2d(x.cpu(), weight.cpu(), {}, {1, 1}, {1, 1}, {1, 1}, 6);
  for (const ComputeType type : compute_types()) {
    const auto convolved = [&] {
      return under(type, [&] { return halftone::conv2d(x, weight, {}, grid, 6); });
    };
    if (is_quantized(type))
      EXPECT_THAT(test::message_of<UserError>(convolved),
                  HasSubstr("one group in " + std::string(to_string(type))));
    else
      EXPECT_LE(relative_error(convolved(), expected), errors_of(type).most);
  }
}

TEST(Conv2d, OnlyFormatsThatDoNotRoundHaveSecondDerivatives) {
  torch::manual_seed(3);
  const Case c = cases().front();
  std::vector<Tensor> inputs = inputs_of(c);
  for (Tensor& input : inputs) input.requires_grad_();
  const auto first = [&] {
    const Tensor y = halftone::conv2d(inputs[0], inputs[1], inputs[2], c.grid);
    return torch::autograd::grad({y.square().sum()}, {inputs[0]}, {}, true, /*create_graph=*/true)
        .front();
  };
  EXPECT_TRUE(torch::autograd::grad({first().square().sum()}, {inputs[1]}).front().defined());
  const ComputeScope scope(test::computing_in(ComputeType::kInt8, 1));
  EXPECT_THROW(first(), c10::Error);
}

TEST(Conv2d, RefusesWhatDoesNotFitTogether) {
  const Tensor x = torch::zeros({1, 3, 4, 4}), weight = torch::zeros({2, 3, 3, 3});
  const WindowGrid grid{.kernel = {3, 3}};
  EXPECT_THROW(halftone::conv2d(x[0], weight, {}, grid), c10::Error);
  EXPECT_THROW(halftone::conv2d(x, weight.narrow(1, 0, 2), {}, grid), c10::Error);
  EXPECT_THROW(halftone::conv2d(x, weight, torch::zeros({3}), grid), c10::Error);
  EXPECT_THROW(halftone::conv2d(x, weight, {}, {.kernel = {3, 2}}), c10::Error);
  EXPECT_THROW(halftone::conv2d(x, weight, {}, {.kernel = {3, 3}, .dilation = {2, 2}}), c10::Error);
  EXPECT_THROW(halftone::conv2d(x.to(torch::kHalf), weight, {}, grid), c10::Error);
}

// Two pixels less than nothing is not a place, however far the window moves.
TEST(Conv2d, RefusesPicturesThatTheWindowDoesNotFitInto) {
  const Tensor x = torch::zeros({1, 3, 2, 2}), weight = torch::zeros({2, 3, 3, 3});
  for (const ComputeType type : {ComputeType::kFloat32, ComputeType::kInt8}) {
    const ComputeScope scope(test::computing_in(type, 3));
    for (const std::int64_t stride : {1, 2, 3})
      EXPECT_THROW(halftone::conv2d(x, weight, {}, {.kernel = {3, 3}, .stride = {stride, stride}}),
                   c10::Error)
          << stride;
  }
}

}  // namespace
}  // namespace halftone::conv2d_test
