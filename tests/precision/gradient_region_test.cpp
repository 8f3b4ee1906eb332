// SPDX-License-Identifier: Apache-2.0
#include "halftone/precision/gradient_region.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <limits>

#include "halftone/autocast/autocast.h"
#include "halftone/core/error.h"
#include "halftone/precision/grad_scaler.h"

namespace halftone::gradient_region_test {
namespace {

struct Stack : torch::nn::Module {
  explicit Stack(torch::ScalarType dtype) {
    torch::manual_seed(5);
    first = register_module("first", torch::nn::Linear(6, 6));
    second = register_module("second", torch::nn::Linear(6, 6));
    third = register_module("third", torch::nn::Linear(6, 6));
    to(dtype);
  }
  std::vector<torch::Tensor> gradients() const {
    std::vector<torch::Tensor> list;
    for (const torch::Tensor& parameter : parameters()) list.push_back(parameter.grad().clone());
    return list;
  }
  torch::nn::Linear first{nullptr}, second{nullptr}, third{nullptr};
};

torch::Tensor input(torch::ScalarType dtype) {
  return torch::linspace(-1, 1, 24, dtype).reshape({4, 6});
}

TEST(GradientRegion, ScalesTheGradientOfATensor) {
  const torch::Tensor x = torch::ones({3}).requires_grad_();
  const torch::Tensor y = scale_gradient(x, 4.0);
  EXPECT_TRUE(torch::equal(x, y));
  (y * 2).sum().backward();
  EXPECT_TRUE(x.grad().eq(8.0).all().item<bool>());
  EXPECT_TRUE(scale_gradient(x, 1.0).is_same(x));
}

// In fp64 every power of two is exact, so the gradients are the same numbers.
TEST(GradientRegion, LeavesEveryGradientAsItIsWithoutOne) {
  Stack model(torch::kDouble);
  torch::Tensor x = input(torch::kDouble).requires_grad_();
  const auto plain = [&] {
    return model.third(torch::tanh(model.second(torch::tanh(model.first(x))))).square().sum();
  };
  plain().backward();
  const std::vector<torch::Tensor> expected = model.gradients();
  const torch::Tensor expected_x = x.grad().clone();
  for (const double factor : {1024.0, 1.0, 0.0625}) {
    model.zero_grad();
    x.mutable_grad() = torch::Tensor();
    GradientRegion outer(*model.second, {.factor = factor});
    GradientRegion last(*model.third, {.factor = 4096.0});
    const torch::Tensor h = torch::tanh(model.first(x));
    const torch::Tensor g = torch::tanh(outer.leave(model.second(outer.enter(h))));
    last.leave(model.third(last.enter(g))).square().sum().backward();
    const std::vector<torch::Tensor> gradients = model.gradients();
    for (std::size_t i = 0; i < gradients.size(); ++i)
      EXPECT_TRUE(torch::equal(gradients[i], expected[i])) << factor << " " << i;
    EXPECT_TRUE(torch::equal(x.grad(), expected_x));
  }
  // With the regions gone nothing divides any more.
  model.zero_grad();
  plain().backward();
  EXPECT_TRUE(torch::equal(model.gradients()[2], expected[2]));
}

// A plain scale_gradient is an operation like any other; a region's hooks would divide what the
// second pass brings without the factor.
TEST(GradientRegion, RefusesASecondBackwardPass) {
  const torch::Tensor x = torch::full({}, 3.0).requires_grad_();
  const auto slope = torch::autograd::grad({scale_gradient(x * x, 4.0)}, {x}, {}, true, true);
  EXPECT_EQ(slope[0].item<float>(), 24.0F);
  EXPECT_EQ(torch::autograd::grad({slope[0]}, {x})[0].item<float>(), 8.0F);

  Stack model(torch::kDouble);
  for (const double factor : {1.0, 256.0}) {
    GradientRegion region(*model.second, {.factor = factor});
    const torch::Tensor h = torch::tanh(model.first(input(torch::kDouble)));
    const torch::Tensor loss = region.leave(torch::tanh(model.second(region.enter(h)))).sum();
    const auto penalty = [&] { torch::autograd::grad({loss}, {h}, {}, true, true); };
    if (factor == 1.0) {
      EXPECT_NO_THROW(penalty());
    } else {
      EXPECT_THROW(penalty(), c10::Error);
    }
  }
}

// `second` feeds the loss through 1e-11 and `third` through a square times 100: further apart than
// any one scale can bring into fp16.
struct FarApart {
  FarApart() : model(torch::kFloat) {}
  torch::Tensor loss(const GradientRegion* faint, bool fp16) {
    const torch::Tensor x = input(torch::kFloat);
    torch::Tensor quiet, loud;
    {
      const Autocast autocast(torch::kCPU, torch::kHalf, fp16);
      quiet = model.second(x).to(torch::kFloat);
      loud = model.third(x).to(torch::kFloat);
    }
    // The factor must come in before fp16 does.
    if (faint != nullptr) quiet = faint->leave(quiet);
    return (quiet * 1e-11).sum() + (loud.square() * 100).sum();
  }
  torch::Tensor& quiet_gradient() { return model.second->weight.mutable_grad(); }
  torch::Tensor& loud_gradient() { return model.third->weight.mutable_grad(); }
  Stack model;
};

bool all_finite(const torch::Tensor& tensor) { return tensor.isfinite().all().item<bool>(); }

TEST(GradientRegion, CuresOneGroupsUnderflowWithoutOverflowInAnother) {
  FarApart far;
  far.loss(nullptr, /*fp16=*/false).backward();
  const torch::Tensor exact = far.quiet_gradient().clone();
  const torch::Tensor exact_loud = far.loud_gradient().clone();

  // No scale serves both.
  for (int exponent = 0; exponent <= 24; ++exponent) {
    GradScaler scaler({.init_scale = std::exp2(exponent)});
    far.model.zero_grad();
    scaler.scale(far.loss(nullptr, true)).backward();
    EXPECT_TRUE(far.quiet_gradient().eq(0).all().item<bool>() || !all_finite(far.loud_gradient()))
        << exponent;
  }

  GradientRegion region(*far.model.second);
  GradScaler scaler({.init_scale = 64});
  torch::optim::SGD optimizer(far.model.parameters(), torch::optim::SGDOptions(0.0));
  for (int i = 0; i < 20; ++i) {
    far.model.zero_grad();
    region.measure();
    scaler.scale(far.loss(&region, true)).backward();
    EXPECT_TRUE(scaler.step(optimizer).stepped);
    scaler.update();
    region.adapt();
  }
  const auto error = [](const torch::Tensor& found, const torch::Tensor& right) {
    return ((found - right).norm() / right.norm()).item<double>();
  };
  EXPECT_LT(error(far.quiet_gradient(), exact), 2e-3);
  EXPECT_LT(error(far.loud_gradient(), exact_loud), 2e-3);
  EXPECT_GT(region.factor(), 65536.0);
}

TEST(GradientRegion, AdaptsToTheLargestGradient) {
  Stack model(torch::kFloat);
  GradientRegion region(*model.second, {.margin = 3});
  const auto backward = [&](float gradient) {
    model.zero_grad();
    region.measure();
    const torch::Tensor y = region.leave(model.second(region.enter(torch::ones({1, 6}))));
    (y.sum() * gradient).backward();
    region.adapt();
  };
  backward(1.0F);
  EXPECT_EQ(region.factor(), std::exp2(15 - 3));
  EXPECT_TRUE(model.second->bias.grad().eq(1.0).all().item<bool>());
  backward(1024.0F);
  EXPECT_EQ(region.factor(), std::exp2(15 - 3 - 10));
  backward(std::numeric_limits<float>::infinity());
  EXPECT_EQ(region.factor(), 2.0);
  backward(1.0F);
  EXPECT_EQ(region.factor(), std::exp2(15 - 4));  // the margin is wider now
  backward(0.0F);
  EXPECT_EQ(region.factor(), std::exp2(15 - 4 + 1));
  region.adapt();  // nothing was counted
  EXPECT_EQ(region.factor(), std::exp2(15 - 4 + 1));

  GradientRegion resumed(*model.third);
  resumed.load_state_dict(region.state_dict());
  EXPECT_EQ(resumed.factor(), region.factor());
  EXPECT_EQ(resumed.state_dict().values, region.state_dict().values);
}

TEST(GradientRegion, RefusesWhatCannotWork) {
  Stack half(torch::kHalf);
  EXPECT_THROW(GradientRegion(*half.first), c10::Error);
  Stack model(torch::kFloat);
  EXPECT_THROW(GradientRegion(*model.first, {.factor = 0.0}), c10::Error);
  EXPECT_THROW(GradientRegion(*model.first, {.margin = 0}), c10::Error);
  GradientRegion region(*model.first);
  EXPECT_THROW(region.set_factor(std::nan("")), c10::Error);
  StateDict state = region.state_dict();
  state.values["factor"] = -1.0;
  EXPECT_THROW(region.load_state_dict(state), UserError);
  state.values.erase("factor");
  EXPECT_THROW(region.load_state_dict(state), UserError);
  EXPECT_EQ(region.factor(), 1.0);
}

}  // namespace
}  // namespace halftone::gradient_region_test
