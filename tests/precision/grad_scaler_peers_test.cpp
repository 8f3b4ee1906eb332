// SPDX-License-Identifier: Apache-2.0
// Mistakes that loss scalers elsewhere have made, each as a test of ours.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <limits>

#include "halftone/optim/adamw.h"
#include "halftone/optim/clip.h"
#include "halftone/precision/grad_scaler.h"

namespace halftone::grad_scaler_peers_test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

torch::Tensor leaf(const torch::Tensor& start) { return start.clone().requires_grad_(); }

bool iterate(GradScaler& scaler, torch::optim::Optimizer& optimizer, const torch::Tensor& parameter,
             float gradient) {
  const torch::Tensor scale = scaler.scale(torch::ones({}));
  parameter.mutable_grad() = torch::full_like(parameter, gradient) * scale;
  const bool stepped = scaler.step(optimizer).stepped;
  scaler.update();
  return stepped;
}

// flashlight compares the scale, not the count of good steps, with the interval, and counts by two.
TEST(GradScalerPeers, GrowthCountsGoodStepsWhateverTheScaleIs) {
  for (const double init_scale : {4.0, 2.0, 1024.0}) {
    const torch::Tensor parameter = leaf(torch::zeros({2}));
    torch::optim::SGD optimizer({parameter}, 0.1);
    GradScaler scaler({.init_scale = init_scale, .growth_interval = 4});
    for (int i = 0; i < 3; ++i) iterate(scaler, optimizer, parameter, 1.0F);
    EXPECT_EQ(scaler.get_scale(), init_scale);
    iterate(scaler, optimizer, parameter, 1.0F);
    EXPECT_EQ(scaler.get_scale(), 2 * init_scale);
    iterate(scaler, optimizer, parameter, kInf);  // and four more good steps bring it back
    EXPECT_EQ(scaler.get_scale(), init_scale);
    for (int i = 0; i < 4; ++i) iterate(scaler, optimizer, parameter, 1.0F);
    EXPECT_EQ(scaler.get_scale(), 2 * init_scale);
  }
}

// flashlight stops unscaling at the first bad gradient, and the others stay scaled.
TEST(GradScalerPeers, ABadGradientDoesNotLeaveTheOthersScaled) {
  std::vector<torch::Tensor> parameters;
  for (int i = 0; i < 5; ++i) parameters.push_back(leaf(torch::zeros({3})));
  torch::optim::SGD optimizer(parameters, 0.1);
  GradScaler scaler({.init_scale = 4});
  scaler.scale(torch::ones({}));
  for (const torch::Tensor& parameter : parameters)
    parameter.mutable_grad() = torch::full({3}, 4.0F);
  parameters[1].mutable_grad()[0] = NAN;
  scaler.unscale_(optimizer);
  for (const std::size_t i : {0U, 2U, 3U, 4U})
    EXPECT_TRUE(parameters[i].grad().eq(1.0).all().item<bool>()) << i;
}

// A scaler that unscales within its loop over the groups divides the first group once per group.
TEST(GradScalerPeers, EveryGroupIsUnscaledOnce) {
  std::vector<torch::optim::OptimizerParamGroup> groups;
  std::vector<torch::Tensor> parameters;
  for (int i = 0; i < 4; ++i) {
    parameters.push_back(leaf(torch::zeros({2})));
    groups.emplace_back(std::vector{parameters.back()});
  }
  torch::optim::SGD optimizer(groups, torch::optim::SGDOptions(1.0));
  GradScaler scaler({.init_scale = 8});
  scaler.scale(torch::ones({}));
  for (const torch::Tensor& parameter : parameters)
    parameter.mutable_grad() = torch::full({2}, 8.0F);
  EXPECT_TRUE(scaler.step(optimizer).stepped);
  for (const torch::Tensor& parameter : parameters)
    EXPECT_TRUE(parameter.eq(-1.0).all().item<bool>());
}

// Tied parameters that are two tensors over one memory share a gradient: to go over the list of
// parameters would divide it twice.
TEST(GradScalerPeers, ASharedGradientIsUnscaledOnce) {
  const torch::Tensor embedding = leaf(torch::zeros({4}));
  const torch::Tensor head = embedding.detach().requires_grad_();
  AdamW ours({embedding, head});
  const torch::Tensor twin = leaf(torch::zeros({4}));
  torch::optim::SGD theirs({twin, twin.detach().requires_grad_()}, 1.0);
  theirs.param_groups()[0].params()[1].mutable_grad() = twin.mutable_grad() = torch::zeros({4});
  for (torch::optim::Optimizer* optimizer : std::vector<torch::optim::Optimizer*>{&ours, &theirs}) {
    GradScaler scaler({.init_scale = 8});
    scaler.scale(torch::ones({}));
    torch::Tensor gradient = optimizer->param_groups()[0].params()[0].mutable_grad();
    gradient.fill_(8.0);
    scaler.unscale_(*optimizer);
    EXPECT_TRUE(gradient.eq(1.0).all().item<bool>());
  }
}

// torch.amp.GradScaler and Apex halve down to 0, after which nothing can be unscaled.
TEST(GradScalerPeers, TheScaleNeverReachesZero) {
  const torch::Tensor parameter = leaf(torch::zeros({2}));
  torch::optim::SGD optimizer({parameter}, 0.1);
  GradScaler scaler({.max_skips_at_floor = 0});
  for (int i = 0; i < 400; ++i) iterate(scaler, optimizer, parameter, kInf);
  EXPECT_EQ(scaler.get_scale(), 1.0);
  EXPECT_TRUE(iterate(scaler, optimizer, parameter, 1.0F));
  EXPECT_NEAR(parameter[0].item<float>(), -0.1F, 1e-7F);
}

// Flax's scale grew to inf, torch's once did.
TEST(GradScalerPeers, TheScaleNeverReachesInf) {
  for (const double max_scale : {16777216.0, std::numeric_limits<double>::infinity()}) {
    const torch::Tensor parameter = leaf(torch::zeros({2}));
    torch::optim::SGD optimizer({parameter}, 0.0);
    GradScaler scaler({.growth_factor = 1024, .growth_interval = 1, .max_scale = max_scale});
    for (int i = 0; i < 40; ++i) iterate(scaler, optimizer, parameter, 0.0F);
    EXPECT_TRUE(std::isfinite(scaler.get_scale()));
    EXPECT_LE(scaler.get_scale(), max_scale);
  }
}

// jmp loses its floor when the scaler is copied or rebuilt from its leaves.
TEST(GradScalerPeers, TheFloorSurvivesCopiesAndStates) {
  const torch::Tensor parameter = leaf(torch::zeros({2}));
  torch::optim::SGD optimizer({parameter}, 0.1);
  const GradScaler original({.init_scale = 64, .min_scale = 16, .max_skips_at_floor = 0});
  GradScaler copied = original;
  GradScaler restored;
  restored.load_state_dict(original.state_dict());
  for (GradScaler* scaler : {&copied, &restored}) {
    for (int i = 0; i < 8; ++i) iterate(*scaler, optimizer, parameter, kInf);
    EXPECT_EQ(scaler->get_scale(), 16.0);
  }
}

// llm.c asks isfinite() first when it looks for outliers, and so applies the step with the nan.
TEST(GradScalerPeers, ANanIsNeverApplied) {
  for (const float bad : {NAN, kInf, -kInf}) {
    for (const bool fused : {false, true}) {
      const torch::Tensor parameter = leaf(torch::ones({3}));
      AdamW optimizer({parameter});
      GradScaler scaler;
      scaler.scale(torch::ones({}));
      parameter.mutable_grad().fill_(1.0);
      parameter.mutable_grad()[1] = bad;
      const StepResult result = fused
                                    ? scaler.step(optimizer, {.clip_norm = 1.0})
                                    : scaler.step(static_cast<torch::optim::Optimizer&>(optimizer));
      EXPECT_FALSE(result.stepped);
      EXPECT_TRUE(parameter.eq(1.0).all().item<bool>());
      EXPECT_EQ(optimizer.step_count(), 0);
      for (const auto& [name, moment] : optimizer.state_dict().tensors)
        EXPECT_TRUE(moment.eq(0.0).all().item<bool>()) << name;
    }
  }
}

// A clip coefficient in fp16 is 0 below 6e-8: the step would do nothing at all.
TEST(GradScalerPeers, TheClipCoefficientOfFp16GradientsDoesNotUnderflow) {
  const std::int64_t size = 4096;
  // The norm is 60000 * 64, the coefficient 2.6e-10: below everything that fp16 has.
  const torch::Tensor gradient = torch::full({size}, 60000.0F).to(torch::kHalf);
  const torch::Tensor parameter = leaf(torch::zeros({size}, torch::kHalf));
  AdamW optimizer({parameter}, {.lr = 0.5, .beta1 = 0.0, .eps = 1e-8, .weight_decay = 0.0});
  GradScaler scaler({.init_scale = 1, .allow_fp16_gradients = true});
  scaler.scale(torch::ones({}));
  parameter.mutable_grad().copy_(gradient);
  const StepResult result = scaler.step(optimizer, {.clip_norm = 1e-3});
  EXPECT_TRUE(result.stepped);
  EXPECT_NEAR(result.grad_norm, 60000.0 * 64, 300.0);
  const double clipped = 1e-3 / 64;  // of each element
  const double moment =
      optimizer.state_dict().tensor("group 0, parameter 0.exp_avg")[7].item<double>();
  EXPECT_NEAR(moment, clipped, 1e-3 * clipped);
  EXPECT_NEAR(parameter[7].item<double>(), -0.5, 1e-3);

  const torch::Tensor other = leaf(torch::zeros({size}, torch::kHalf));
  other.mutable_grad() = gradient.clone();
  clip_grad_norm_({other}, 1.0);  // a coefficient of 2.6e-7
  EXPECT_NEAR(other.grad()[7].item<double>(), 1.0 / 64, 1e-3 / 64);
}

// Optimizers that set their state up in the first step must not count, or miss, a skipped one.
template <class Torch, class Options>
void expect_late_start(const Options& options) {
  const torch::Tensor skipping = leaf(torch::ones({2}));
  const torch::Tensor control = leaf(torch::ones({2}));
  Torch optimizer({skipping}, options);
  Torch plain({control}, options);
  GradScaler scaler({.init_scale = 1024});
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(iterate(scaler, optimizer, skipping, kInf));
  for (int i = 1; i <= 3; ++i) {
    EXPECT_TRUE(iterate(scaler, optimizer, skipping, static_cast<float>(i)));
    control.mutable_grad() = torch::full({2}, static_cast<float>(i));
    plain.step();
  }
  EXPECT_TRUE(torch::allclose(skipping, control, 1e-6, 1e-7));
}

TEST(GradScalerPeers, OptimizersStartLateAfterSkippedSteps) {
  expect_late_start<torch::optim::Adam>(torch::optim::AdamOptions(0.1));
  expect_late_start<torch::optim::SGD>(torch::optim::SGDOptions(0.1).momentum(0.9));
  expect_late_start<AdamW>(AdamWOptions{.lr = 0.1});
}

TEST(GradScalerPeers, AStateSavedAfterOnlySkippedStepsCanBeResumed) {
  const torch::Tensor parameter = leaf(torch::ones({2}));
  AdamW optimizer({parameter});
  GradScaler scaler;
  EXPECT_FALSE(iterate(scaler, optimizer, parameter, kInf));
  const torch::Tensor other = leaf(torch::ones({2}));
  AdamW resumed({other});
  resumed.load_state_dict(optimizer.state_dict());
  EXPECT_TRUE(iterate(scaler, optimizer, parameter, 1.0F));
  GradScaler second;
  EXPECT_TRUE(iterate(second, resumed, other, 1.0F));
  EXPECT_TRUE(torch::equal(parameter, other));
}

}  // namespace
}  // namespace halftone::grad_scaler_peers_test
