// SPDX-License-Identifier: Apache-2.0
// The measured scale: where it goes, what stops it, and what it saves.
#include "halftone/precision/adaptive_scale.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/init.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <limits>

#include "halftone/autocast/autocast.h"
#include "halftone/core/error.h"
#include "halftone/optim/adamw.h"
#include "halftone/precision/grad_scaler.h"

namespace halftone::adaptive_scale_test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// Gradients of the size `gradient`, as a backward pass under the scaler would leave them.
struct Unit {
  Unit() : parameter(torch::zeros({4}).requires_grad_()), optimizer({parameter}, 1.0) {}
  StepResult iterate(GradScaler& scaler, double gradient) {
    const torch::Tensor scale = scaler.scale(torch::ones({}));
    parameter.mutable_grad() = scale * torch::full({4}, gradient);
    StepResult result = scaler.step(optimizer);
    scaler.update();
    return result;
  }
  torch::Tensor parameter;
  torch::optim::SGD optimizer;
};

GradScalerOptions adaptive(std::int64_t interval = 1, std::int64_t growth_interval = 2000) {
  return {.growth_interval = growth_interval,
          .max_skips_at_floor = 0,
          .adaptive = true,
          .adaptive_interval = interval};
}

TEST(AdaptiveScale, ChoosesTheLargestPowerOfTwoBelowTheMargin) {
  // 1.5 * 2^k times the scale shall lie in [2^11, 2^12): four binades below fp16's last one.
  for (const int k : {-10, -3, 0, 5, 9}) {
    Unit unit;
    GradScaler scaler(adaptive());
    unit.iterate(scaler, 1.5 * std::exp2(k));
    EXPECT_EQ(scaler.get_scale(), std::exp2(11 - k)) << k;
    const ScaleMeasurement seen = scaler.last_measurement().value();
    EXPECT_EQ(seen.update, 1);
    EXPECT_EQ(seen.scale, 65536.0);
    EXPECT_EQ(seen.head_room, 15 - (k + 16));
    EXPECT_EQ(seen.margin, 4);
    EXPECT_EQ(seen.chosen_scale, scaler.get_scale());
    EXPECT_TRUE(seen.finite);
  }
}

TEST(AdaptiveScale, StaysWithinFloorAndCeiling) {
  Unit unit;
  GradScalerOptions options = adaptive();
  options.min_scale = 8;
  options.max_scale = 1048576;
  GradScaler scaler(options);
  unit.iterate(scaler, 1e-12);
  EXPECT_EQ(scaler.get_scale(), 1048576.0);
  unit.iterate(scaler, 1e6);
  EXPECT_EQ(scaler.get_scale(), 8.0);
}

TEST(AdaptiveScale, MeasuresEveryInterval) {
  Unit unit;
  GradScaler scaler(adaptive(/*interval=*/5));
  EXPECT_FALSE(scaler.last_measurement().has_value());
  std::vector<std::int64_t> measured;
  for (int i = 0; i < 12; ++i) {
    unit.iterate(scaler, std::exp2(-i));
    measured.push_back(scaler.last_measurement()->update);
  }
  EXPECT_THAT(measured, testing::ElementsAre(1, 1, 1, 1, 1, 6, 6, 6, 6, 6, 11, 11));
  EXPECT_EQ(scaler.get_scale(), std::exp2(11 + 10));
}

TEST(AdaptiveScale, CountsWhatFp16WouldFlush) {
  Unit unit;
  GradScaler scaler(adaptive());
  scaler.scale(torch::ones({}));
  // With the scale 2^16: flushed below 2^-25; at scale 1 the limit is 2^16 times higher.
  unit.parameter.mutable_grad() = torch::tensor({std::exp2f(-26), std::exp2f(-25), std::exp2f(-10),
                                                 0.0F, std::exp2f(-9), 1.0F, 0.0F, 3.0F})
                                      .slice(0, 0, 4);
  scaler.step(unit.optimizer);
  scaler.update();
  const ScaleMeasurement seen = scaler.last_measurement().value();
  EXPECT_DOUBLE_EQ(seen.flushed_share, 1.0 / 3.0);   // 2^-26 of the three that are not zero
  EXPECT_DOUBLE_EQ(seen.unscaled_share, 3.0 / 3.0);  // all lie below 2^-9
}

TEST(AdaptiveScale, ANanNeverRaisesTheScale) {
  Unit unit;
  GradScaler scaler(adaptive());
  unit.iterate(scaler, 1.0);
  double last = scaler.get_scale();
  // The gradients that are left would allow a far larger scale.
  for (int i = 0; i < 8; ++i) {
    const torch::Tensor scale = scaler.scale(torch::ones({}));
    unit.parameter.mutable_grad() = scale * torch::tensor({1e-6F, NAN, 1e-7F, 0.0F});
    EXPECT_FALSE(scaler.step(unit.optimizer).stepped);
    scaler.update();
    EXPECT_EQ(scaler.get_scale(), last / 2);
    EXPECT_FALSE(scaler.last_measurement()->finite);
    last = scaler.get_scale();
  }
}

TEST(AdaptiveScale, NeitherDoesANanThatHysteresisForgives) {
  Unit unit;
  GradScalerOptions options = adaptive();
  options.hysteresis = 5;
  GradScaler scaler(options);
  unit.iterate(scaler, 1.0);
  const double before = scaler.get_scale();
  for (int i = 0; i < 4; ++i) {
    unit.iterate(scaler, NAN);
    EXPECT_EQ(scaler.get_scale(), before);
  }
}

// Gradients that are all zero may have been flushed: a scale that has fallen must get up again.
TEST(AdaptiveScale, DoublesWhileAllGradientsAreZero) {
  Unit unit;
  GradScalerOptions options = adaptive();
  options.init_scale = 1;
  options.max_scale = 16;
  GradScaler scaler(options);
  for (const double expected : {2.0, 4.0, 8.0, 16.0, 16.0}) {
    unit.iterate(scaler, 0.0);
    EXPECT_EQ(scaler.get_scale(), expected);
    EXPECT_EQ(scaler.last_measurement()->head_room, kInf);
  }
  unit.iterate(scaler, 1024.0);
  EXPECT_EQ(scaler.get_scale(), 2.0);
}

// Something upstream overflows above a scale that the weights' gradients know nothing of.
TEST(AdaptiveScale, DoesNotClimbRightBackAfterAnOverflow) {
  constexpr double kHidden = 1024.0;
  struct Expected {
    double backoff;
    int skipped;  // from 2^16 to 2^10, and once more from the first choice, 2^18
    double scale;
  };
  for (const Expected& expected :
       {Expected{0.5, 6 + 8, 1024}, Expected{0.25, 3 + 4, 1024}, Expected{0.125, 2 + 3, 512}}) {
    Unit unit;
    GradScalerOptions options = adaptive(/*interval=*/2);
    options.backoff_factor = expected.backoff;
    GradScaler scaler(options);
    int skipped = 0;
    for (int i = 0; i < 200; ++i) {
      const double gradient = scaler.get_scale() > kHidden ? kInf : 0.01;
      skipped += unit.iterate(scaler, gradient).stepped ? 0 : 1;
    }
    EXPECT_EQ(skipped, expected.skipped);
    EXPECT_EQ(scaler.get_scale(), expected.scale);
  }
}

TEST(AdaptiveScale, TheMarginNarrowsAgainOnePowerEachGrowthInterval) {
  Unit unit;
  GradScaler scaler(adaptive(/*interval=*/1, /*growth_interval=*/4));
  unit.iterate(scaler, 1.0);
  const double calm = scaler.get_scale();
  for (int i = 0; i < 3; ++i) unit.iterate(scaler, kInf);
  EXPECT_EQ(scaler.get_scale(), calm / 8);
  std::vector<double> scales;
  for (int i = 0; i < 16; ++i) {
    unit.iterate(scaler, 1.0);
    scales.push_back(scaler.get_scale() / calm);
  }
  using testing::Each;
  EXPECT_THAT(std::vector(scales.begin(), scales.begin() + 3), Each(0.125));
  EXPECT_THAT(std::vector(scales.begin() + 3, scales.begin() + 7), Each(0.25));
  EXPECT_THAT(std::vector(scales.begin() + 7, scales.begin() + 11), Each(0.5));
  EXPECT_THAT(std::vector(scales.begin() + 11, scales.end()), Each(1.0));
}

TEST(AdaptiveScale, LowersTheScaleBeforeAnythingOverflows) {
  Unit unit;
  GradScaler scaler(adaptive());
  // Gradients grow by 2 a step, 20 times: without the measurement this passes 65504.
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(unit.iterate(scaler, std::exp2(i - 10)).stepped);
  EXPECT_EQ(scaler.get_scale(), std::exp2(15 - 4 - 9));
}

TEST(AdaptiveScale, ResumesExactlyAtEveryIteration) {
  const std::vector<double> gradients = {1, 0.5,  kInf, 0.1, 1e-4, NAN, kInf, 0.2,
                                         2, 0.01, 0.01, 3,   1e-3, 5,   1,    kInf};
  const GradScalerOptions options = adaptive(/*interval=*/3, /*growth_interval=*/2);
  Unit unit;
  GradScaler straight(options);
  auto resumed = std::make_unique<GradScaler>(options);
  for (const double gradient : gradients) {
    unit.iterate(straight, gradient);
    unit.iterate(*resumed, gradient);
    const StateDict saved = resumed->state_dict();
    EXPECT_EQ(saved.values, straight.state_dict().values);
    resumed = std::make_unique<GradScaler>(options);
    resumed->load_state_dict(saved);
  }
}

TEST(AdaptiveScale, ExchangesStatesWithAScalerThatDoesNotMeasure) {
  Unit unit;
  GradScaler plain({.init_scale = 512});
  GradScaler measuring(adaptive());
  measuring.load_state_dict(plain.state_dict());
  EXPECT_EQ(measuring.get_scale(), 512.0);
  unit.iterate(measuring, 1.0);
  EXPECT_EQ(measuring.get_scale(), 2048.0);
  plain.load_state_dict(measuring.state_dict());
  EXPECT_EQ(plain.get_scale(), 2048.0);
  EXPECT_EQ(plain.state_dict().values.count("_adaptive_margin"), 0U);

  StateDict bad = measuring.state_dict();
  bad.values["_adaptive_margin"] = std::int64_t{0};
  EXPECT_THROW(measuring.load_state_dict(bad), UserError);
  EXPECT_EQ(measuring.get_scale(), 2048.0);
}

TEST(AdaptiveScale, MeasuresAllOptimizersAndSparseGradientsTogether) {
  Unit small;
  const torch::Tensor table = torch::zeros({4}).requires_grad_();
  torch::optim::Adagrad sparse({table}, torch::optim::AdagradOptions(0.1));
  GradScaler scaler(adaptive());
  const torch::Tensor scale = scaler.scale(torch::ones({}));
  small.parameter.mutable_grad() = scale * torch::full({4}, 1e-3);
  table.mutable_grad() =
      torch::sparse_coo_tensor(torch::tensor({{1, 3}}), scale * torch::tensor({1.0F, 0.25F}), {4});
  scaler.step(small.optimizer);
  EXPECT_TRUE(scaler.step(sparse).stepped);
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 2048.0);  // the sparse gradient is the largest
}

TEST(AdaptiveScale, FusedStepMeasuresTheSame) {
  for (const bool unscale_first : {false, true}) {
    const torch::Tensor weight = torch::zeros({100}).requires_grad_();
    AdamW optimizer({weight});
    GradScaler scaler(adaptive());
    (scaler.scale((weight * 0.125).sum())).backward();
    if (unscale_first) scaler.unscale_(optimizer);
    scaler.step(optimizer, {.clip_norm = 1.0});
    scaler.update();
    EXPECT_EQ(scaler.get_scale(), 16384.0);
    EXPECT_EQ(scaler.last_measurement()->head_room, 2.0);
  }
}

TEST(AdaptiveScale, ParametersWithoutAGradientAreLeftOut) {
  const torch::Tensor used = torch::zeros({100}).requires_grad_();
  const torch::Tensor unused = torch::zeros({3}).requires_grad_();
  AdamW optimizer({used, unused});
  GradScaler scaler(adaptive());
  unused.mutable_grad() = torch::Tensor();
  (scaler.scale((used * 0.125).sum())).backward();
  EXPECT_TRUE(scaler.step(optimizer).stepped);
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 16384.0);
}

TEST(AdaptiveScale, AScaleFromTheCallerDropsWhatWasCounted) {
  Unit unit;
  GradScaler scaler(adaptive());
  scaler.scale(torch::ones({}));
  unit.parameter.mutable_grad() = torch::full({4}, 30000.0F);
  scaler.unscale_(unit.optimizer);
  scaler.update(64.0);
  EXPECT_EQ(scaler.get_scale(), 64.0);
  unit.iterate(scaler, 0.5);  // would be 2^10 with the large gradient still counted
  EXPECT_EQ(scaler.get_scale(), 4096.0);
}

TEST(AdaptiveScale, WorksOnADevice_CUDA) {
  const torch::Tensor weight = torch::zeros({100}, torch::device(torch::kCUDA)).requires_grad_();
  AdamW optimizer({weight});
  GradScaler scaler(adaptive());
  (scaler.scale((weight * 0.125).sum())).backward();
  scaler.step(optimizer);
  scaler.update();
  EXPECT_EQ(scaler.get_scale(), 16384.0);
  EXPECT_EQ(scaler.last_measurement()->head_room, 2.0);
}

// A model whose gradients are so small that fp16 loses them: |g| is about 1e-8 on the way through
// the half-precision layer, and 2^-25 = 3e-8 is where fp16 ends.
struct Faint {
  Faint() : layer(8, 8) {
    torch::manual_seed(11);
    torch::nn::init::normal_(layer->weight, 0.0, 0.3);
    torch::nn::init::zeros_(layer->bias);
  }
  torch::Tensor loss(bool fp16) {
    const torch::Tensor x = torch::linspace(-1, 1, 64).reshape({8, 8});
    torch::Tensor y;
    {
      const Autocast autocast(torch::kCPU, torch::kHalf, fp16);
      y = layer(x);
    }
    return 1e-8 * (y.to(torch::kFloat) - x.t()).square().sum();
  }
  torch::nn::Linear layer;
};

// Share of the weight gradient's values that are zero, and its relative error against fp32.
std::pair<double, double> lost(const torch::Tensor& gradient, const torch::Tensor& exact) {
  return {gradient.eq(0).to(torch::kDouble).mean().item<double>(),
          ((gradient - exact).norm() / exact.norm()).item<double>()};
}

TEST(AdaptiveScale, SavesGradientsThatVanishAtScaleOne) {
  Faint model;
  model.loss(false).backward();
  const torch::Tensor exact = model.layer->weight.grad().clone();

  model.layer->zero_grad();
  model.loss(true).backward();
  EXPECT_GT(lost(model.layer->weight.grad(), exact).first, 0.9);

  torch::optim::SGD optimizer(model.layer->parameters(), torch::optim::SGDOptions(0.0));
  GradScalerOptions options = adaptive();
  options.init_scale = 1;  // worst of all starts
  GradScaler scaler(options);
  for (int i = 0; i < 8; ++i) {
    model.layer->zero_grad();
    scaler.scale(model.loss(true)).backward();
    EXPECT_TRUE(scaler.step(optimizer).stepped);
    scaler.update();
  }
  const auto [zeros, error] = lost(model.layer->weight.grad(), exact);
  EXPECT_EQ(zeros, 0.0);
  EXPECT_LT(error, 2e-3);  // fp16's own rounding
  const ScaleMeasurement seen = scaler.last_measurement().value();
  EXPECT_EQ(seen.flushed_share, 0.0);
  EXPECT_GT(seen.unscaled_share, 0.3);
}

}  // namespace
}  // namespace halftone::adaptive_scale_test
