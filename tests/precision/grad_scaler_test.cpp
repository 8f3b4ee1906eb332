// SPDX-License-Identifier: Apache-2.0
#include "halftone/precision/grad_scaler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <limits>

#include "halftone/core/error.h"

namespace halftone::grad_scaler_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr double kNoLimit = std::numeric_limits<double>::infinity();

// One parameter with an SGD of its own, whose gradient is set by hand.
struct Unit {
  explicit Unit(torch::Tensor start = torch::zeros({2}))
      : parameter(start.requires_grad_()), optimizer({parameter}, torch::optim::SGDOptions(1.0)) {}
  void set_gradient(const torch::Tensor& gradient) { parameter.mutable_grad() = gradient; }
  torch::Tensor parameter;
  torch::optim::SGD optimizer;
};

struct Iteration {
  bool stepped;
  ScalerVerdict verdict;
};

Iteration iterate(GradScaler& scaler, Unit& unit, float gradient) {
  scaler.scale(torch::ones({1}));
  unit.set_gradient(torch::full({2}, gradient));
  const StepResult result = scaler.step(unit.optimizer);
  return {result.stepped, scaler.update()};
}

TEST(GradScaler, GrowsAfterTheIntervalAndBacksOffOnInf) {
  Unit unit;
  GradScaler scaler(
      {.init_scale = 4, .growth_factor = 2, .backoff_factor = 0.25, .growth_interval = 2});
  const auto state = [&] { return std::pair(scaler.get_scale(), scaler.growth_tracker()); };
  EXPECT_TRUE(iterate(scaler, unit, 1).stepped);
  EXPECT_EQ(state(), std::pair(4.0, std::int64_t{1}));
  iterate(scaler, unit, 1);
  EXPECT_EQ(state(), std::pair(8.0, std::int64_t{0}));
  EXPECT_FALSE(iterate(scaler, unit, kInf).stepped);
  EXPECT_EQ(state(), std::pair(2.0, std::int64_t{0}));
  EXPECT_FALSE(iterate(scaler, unit, NAN).stepped);
  EXPECT_EQ(scaler.get_scale(), 1.0);  // the floor, not 0.5
}

TEST(GradScaler, UnscalesEverySizeDtypeAndLayout) {
  const auto gradients = [] {
    std::vector<torch::Tensor> list;
    for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kBFloat16}) {
      for (const std::int64_t size : {0, 1, 3, 17, 1025})
        list.push_back(torch::full({size}, 4.0, dtype));
      list.push_back(torch::full({8, 6}, 4.0, dtype).t());
      list.push_back(torch::full({9, 9}, 4.0, dtype).slice(1, 0, 9, 2));
      list.push_back(torch::full({2, 3, 4}, 4.0, dtype).transpose(0, 2));
    }
    return list;
  };
  const std::size_t count = gradients().size();
  for (std::size_t injected = 0; injected <= count; ++injected) {
    for (const float bad : {kInf, -kInf, NAN}) {
      std::vector<torch::Tensor> parameters = gradients();
      std::vector<torch::Tensor> list = gradients();
      for (std::size_t i = 0; i < count; ++i)
        parameters[i].requires_grad_().mutable_grad() = list[i];
      if (injected < count && list[injected].numel() == 0) continue;
      if (injected < count) list[injected].select(0, 0).fill_(bad);
      // Two groups: each gradient must be unscaled once.
      std::vector<torch::optim::OptimizerParamGroup> groups;
      groups.emplace_back(std::vector(parameters.begin(), parameters.begin() + 5));
      groups.emplace_back(std::vector(parameters.begin() + 5, parameters.end()));
      torch::optim::SGD optimizer(groups, torch::optim::SGDOptions(0.0));
      GradScaler scaler({.init_scale = 4});
      scaler.scale(torch::ones({}));
      scaler.unscale_(optimizer);
      for (const torch::Tensor& gradient : list)
        EXPECT_EQ(gradient.ne(1).sum().item<std::int64_t>() == 0,
                  injected == count || !gradient.is_same(list[injected]));
      const StepResult result = scaler.step(optimizer);
      EXPECT_EQ(result.stepped, injected == count);
      EXPECT_EQ(result.overflow.size(), injected == count ? 0U : 1U);
    }
  }
}

torch::Tensor sparse(const std::vector<std::int64_t>& places, const torch::Tensor& values) {
  const torch::Tensor indices = torch::tensor(places, torch::kLong).reshape({1, -1});
  return torch::sparse_coo_tensor(indices, values, {4});
}

TEST(GradScaler, UnscalesSparseGradients) {
  for (const float bad : {0.0F, kInf, NAN}) {
    Unit unit(torch::zeros({4}));
    GradScaler scaler({.init_scale = 4});
    scaler.scale(torch::ones({}));
    unit.set_gradient(sparse({0, 3}, torch::tensor({8.0F, bad})));
    scaler.unscale_(unit.optimizer);
    EXPECT_EQ(unit.parameter.grad().to_dense()[0].item<float>(), 2.0F);
    unit.set_gradient(torch::zeros({4}));  // SGD takes dense ones only
    EXPECT_EQ(scaler.step(unit.optimizer).stepped, bad == 0.0F);
  }
}

TEST(GradScaler, FindsTheOverflowOfSparseFp16DuplicatesInTheirSum) {
  for (const float second : {1.0F, 64000.0F}) {
    Unit unit(torch::zeros({4}, torch::kHalf));
    GradScaler scaler({.init_scale = 4, .allow_fp16_gradients = true});
    scaler.scale(torch::ones({}));
    unit.set_gradient(sparse({1, 1}, torch::tensor({64000.0F, second}).to(torch::kHalf)));
    scaler.unscale_(unit.optimizer);
    if (second == 1.0F) unit.set_gradient(torch::zeros({4}, torch::kHalf));
    EXPECT_EQ(scaler.step(unit.optimizer).stepped, second == 1.0F);
  }
}

TEST(GradScaler, UnscalesFp16GradientsWhereAllowed) {
  Unit unit(torch::zeros({2}, torch::kHalf));
  unit.set_gradient(torch::full({2}, 8.0).to(torch::kHalf));
  GradScaler scaler({.init_scale = 4, .allow_fp16_gradients = true});
  scaler.scale(torch::ones({}));
  scaler.unscale_(unit.optimizer);
  EXPECT_TRUE(unit.parameter.grad().eq(2).all().item<bool>());
}

TEST(GradScaler, StateRoundTripsWithAndWithoutAScaledTarget) {
  for (const bool lazy : {true, false}) {
    GradScaler source(
        {.init_scale = 3, .growth_factor = 4, .backoff_factor = 0.5, .growth_interval = 2});
    Unit unit;
    iterate(source, unit, 1);
    GradScaler target({.init_scale = 6,
                       .growth_factor = 7,
                       .backoff_factor = 0.8,
                       .growth_interval = 1,
                       .hysteresis = 3,
                       .max_scale = 100});
    if (!lazy) target.scale(torch::ones({}));
    target.load_state_dict(source.state_dict());
    EXPECT_EQ(target.get_scale(), 3.0);
    EXPECT_EQ(target.growth_tracker(), 1);
    EXPECT_EQ(target.options().growth_factor, 4.0);
    EXPECT_EQ(target.options().backoff_factor, 0.5);
    EXPECT_EQ(target.options().growth_interval, 2);
    EXPECT_EQ(target.options().hysteresis, 1);
    EXPECT_EQ(target.options().max_scale, 16777216.0);
    iterate(target, unit, 1);
    EXPECT_EQ(target.get_scale(), 12.0);
  }
}

TEST(GradScaler, LoadsWhatTorchSaves) {
  StateDict state;
  state.values = {{"scale", 32.0},
                  {"growth_factor", 2.0},
                  {"backoff_factor", 0.5},
                  {"growth_interval", std::int64_t{5}},
                  {"_growth_tracker", std::int64_t{4}}};
  GradScaler scaler;
  scaler.load_state_dict(state);
  Unit unit;
  iterate(scaler, unit, 1);
  EXPECT_EQ(scaler.get_scale(), 64.0);
  state.values.erase("_growth_tracker");
  EXPECT_THROW(scaler.load_state_dict(state), UserError);
}

TEST(GradScaler, DisabledHasAnEmptyState) {
  GradScaler off({.enabled = false});
  EXPECT_TRUE(off.state_dict().values.empty());
  off.load_state_dict(GradScaler().state_dict());
  EXPECT_EQ(off.get_scale(), 1.0);
  GradScaler on;
  EXPECT_THROW(on.load_state_dict(off.state_dict()), UserError);
}

// Interrupting at any iteration changes nothing.
TEST(GradScaler, ResumesExactlyAtEveryIteration) {
  const std::vector<float> gradients = {1, 1, kInf, 1, NAN, kInf, 1, 1, 1, 1, kInf, 1};
  const GradScalerOptions options{.init_scale = 64, .growth_interval = 2, .hysteresis = 2};
  Unit unit;
  GradScaler straight(options);
  auto resumed = std::make_unique<GradScaler>(options);
  for (const float gradient : gradients) {
    iterate(straight, unit, gradient);
    iterate(*resumed, unit, gradient);
    const StateDict saved = resumed->state_dict();
    EXPECT_EQ(saved.values, straight.state_dict().values);
    resumed = std::make_unique<GradScaler>(options);
    resumed->load_state_dict(saved);
  }
}

TEST(GradScaler, DoesNotCheckAgainBetweenUnscaleAndStep) {
  Unit unit;
  GradScaler scaler({.init_scale = 2});
  scaler.scale(torch::ones({}));
  unit.set_gradient(torch::ones({2}));
  scaler.unscale_(unit.optimizer);
  unit.parameter.mutable_grad().fill_(kInf);
  EXPECT_TRUE(scaler.step(unit.optimizer).stepped);
  EXPECT_FALSE(unit.parameter.isfinite().any().item<bool>());
}

TEST(GradScaler, ScaleNeverBecomesInf) {
  Unit unit;
  GradScaler scaler(
      {.init_scale = 1e38, .growth_factor = 16, .growth_interval = 1, .max_scale = kNoLimit});
  iterate(scaler, unit, 0);
  EXPECT_EQ(static_cast<float>(scaler.get_scale()), 1e38F);
}

TEST(GradScaler, StaysWithinFloorAndCeiling) {
  Unit unit;
  GradScaler scaler({.init_scale = 8, .growth_interval = 1, .min_scale = 3, .max_scale = 20});
  for (const double expected : {16.0, 20.0, 20.0}) {
    iterate(scaler, unit, 1);
    EXPECT_EQ(scaler.get_scale(), expected);
  }
  for (const double expected : {10.0, 5.0, 3.0, 3.0}) {
    iterate(scaler, unit, kInf);
    EXPECT_EQ(scaler.get_scale(), expected);
  }
}

TEST(GradScaler, FixedScaleStaysFixed) {
  Unit unit;
  GradScaler scaler({.init_scale = 128, .growth_interval = 1, .min_scale = 128, .max_scale = 128});
  for (const float gradient : {1.0F, kInf, 1.0F, NAN}) {
    iterate(scaler, unit, gradient);
    EXPECT_EQ(scaler.get_scale(), 128.0);
  }
}

// The reason of the last of `iterations` verdicts, which alone may be hopeless; "" where it is not.
std::string reason_after(GradScaler& scaler, Unit& unit, float gradient, int iterations) {
  ScalerVerdict verdict;
  for (int i = 0; i < iterations; ++i) {
    EXPECT_FALSE(verdict.hopeless);
    verdict = iterate(scaler, unit, gradient).verdict;
    EXPECT_EQ(verdict.hopeless, !verdict.reason.empty());
  }
  return verdict.reason;
}

TEST(GradScaler, IsHopelessAtTheFloorAndNamesTheTensor) {
  Unit unit;
  GradScaler scaler({.init_scale = 4, .max_skips_at_floor = 3});
  // 4 and 2 can be lowered; at 1 there are three skips.
  EXPECT_EQ(reason_after(scaler, unit, kInf, 4), "");
  EXPECT_EQ(reason_after(scaler, unit, kInf, 1),
            "the last 3 updates were skipped: gradients are not finite even at the smallest loss "
            "scale 1, first in group 0, parameter 0; no smaller scale helps, so go back to a "
            "checkpoint with a smaller learning rate, or train in bf16 or fp32");
  EXPECT_EQ(scaler.get_scale(), 1.0);
  // What becomes of it is up to the caller: the next verdict says so again, or takes it back.
  EXPECT_EQ(iterate(scaler, unit, kInf).verdict.skips_at_floor, 4);
  EXPECT_FALSE(iterate(scaler, unit, 1.0F).verdict.hopeless);
}

TEST(GradScaler, OneGoodUpdateAtTheFloorStartsTheCountAnew) {
  Unit unit;
  GradScaler scaler({.init_scale = 1, .max_skips_at_floor = 3});
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(reason_after(scaler, unit, NAN, 2), "");
    iterate(scaler, unit, 1.0F);
  }
  scaler.scale(torch::ones({1}));
  unit.set_gradient(torch::full({2}, kInf));
  EXPECT_EQ(scaler.step(unit.optimizer).skips_at_floor, 1);
}

TEST(GradScaler, AFixedScaleHasItsFloorThere) {
  Unit unit;
  GradScaler scaler({.init_scale = 128, .min_scale = 128, .max_scale = 128});
  EXPECT_THAT(
      reason_after(scaler, unit, kInf, 10),
      HasSubstr("at the fixed loss scale 128, first in group 0, parameter 0; take a smaller loss "
                "scale, or a dynamic one"));
  GradScaler patient({.init_scale = 1, .max_skips_at_floor = 0});
  EXPECT_EQ(reason_after(patient, unit, kInf, 30), "");
}

TEST(GradScaler, TheCountAtTheFloorIsSaved) {
  Unit unit;
  GradScaler scaler({.init_scale = 1, .max_skips_at_floor = 3});
  reason_after(scaler, unit, kInf, 2);
  GradScaler resumed({.init_scale = 1, .max_skips_at_floor = 3});
  resumed.load_state_dict(scaler.state_dict());
  EXPECT_NE(reason_after(resumed, unit, kInf, 1), "");
}

TEST(GradScaler, ANewScaleFromTheCallerForgetsTheSkips) {
  Unit unit;
  GradScaler scaler({.init_scale = 1, .max_skips_at_floor = 2});
  reason_after(scaler, unit, kInf, 1);
  scaler.update(1.0);
  EXPECT_EQ(reason_after(scaler, unit, kInf, 1), "");
  EXPECT_NE(reason_after(scaler, unit, kInf, 1), "");
}

TEST(GradScaler, HysteresisCountsOverflowsUntilTheNextGrowth) {
  Unit unit;
  GradScaler scaler({.init_scale = 64, .growth_interval = 3, .hysteresis = 2});
  const auto expect = [&](float gradient, double scale) {
    iterate(scaler, unit, gradient);
    EXPECT_EQ(scaler.get_scale(), scale);
  };
  expect(kInf, 64);  // the first is forgiven, but it restarts the count to growth
  EXPECT_EQ(scaler.growth_tracker(), 0);
  expect(1, 64);
  expect(kInf, 32);
  expect(kInf, 16);
  expect(1, 16);
  expect(1, 16);
  expect(1, 32);  // grown: forgiving again
  expect(kInf, 32);
  expect(kInf, 16);
}

TEST(GradScaler, GrowsWhenTheIntervalIsLoweredBelowTheTracker) {
  Unit unit;
  GradScaler scaler({.init_scale = 4, .growth_interval = 100});
  for (int i = 0; i < 5; ++i) iterate(scaler, unit, 1);
  scaler.set_growth_interval(3);
  iterate(scaler, unit, 1);
  EXPECT_EQ(scaler.get_scale(), 8.0);
}

// The closed form of Megatron's and DeepSpeed's hysteresis with a floor: what is left of the
// forgiveness is spent first, then each overflow halves, and a growth restores it.
TEST(GradScaler, HysteresisAndFloorHaveAClosedForm) {
  for (const std::int64_t hysteresis : {1, 2, 5}) {
    Unit unit;
    GradScaler scaler({.init_scale = 256,
                       .growth_interval = 1000,
                       .hysteresis = hysteresis,
                       .min_scale = 16,
                       .max_skips_at_floor = 0});
    for (int overflows = 1; overflows <= 12; ++overflows) {
      iterate(scaler, unit, kInf);
      const double halvings = std::max<double>(0, overflows - static_cast<int>(hysteresis) + 1);
      EXPECT_EQ(scaler.get_scale(), std::max(16.0, 256.0 * std::exp2(-halvings)));
    }
  }
}

TEST(GradScaler, GrowthHasAClosedForm) {
  for (const std::int64_t interval : {1, 3, 7}) {
    Unit unit;
    GradScaler scaler(
        {.init_scale = 2, .growth_factor = 4, .growth_interval = interval, .max_scale = 1000});
    for (int clean = 1; clean <= 40; ++clean) {
      iterate(scaler, unit, 1);
      EXPECT_EQ(scaler.get_scale(), std::min(1000.0, 2.0 * std::exp2(2 * (clean / interval))));
      EXPECT_EQ(scaler.growth_tracker(), clean % interval);
    }
  }
}

TEST(GradScaler, CopiesGoTheirOwnWays) {
  Unit unit;
  GradScaler original({.init_scale = 8, .min_scale = 4, .max_scale = 32});
  iterate(original, unit, 1);
  GradScaler copy = original;
  EXPECT_EQ(copy.options().min_scale, 4.0);
  copy.update(16.0);
  EXPECT_EQ(original.get_scale(), 8.0);
  for (int i = 0; i < 3; ++i) iterate(copy, unit, kInf);
  EXPECT_EQ(copy.get_scale(), 4.0);  // the floor has come along
  EXPECT_EQ(original.get_scale(), 8.0);
  EXPECT_EQ(original.growth_tracker(), 1);
}

TEST(GradScaler, SettersAndANewScale) {
  Unit unit;
  GradScaler scaler({.init_scale = 4});
  scaler.set_growth_factor(3);
  scaler.set_backoff_factor(0.25);
  EXPECT_EQ(scaler.options().growth_factor, 3.0);
  scaler.scale(torch::ones({}));
  scaler.update(512.0);
  EXPECT_EQ(scaler.get_scale(), 512.0);
  scaler.update(torch::tensor({64.0F}));
  EXPECT_EQ(scaler.get_scale(), 64.0);
  iterate(scaler, unit, kInf);
  EXPECT_EQ(scaler.get_scale(), 16.0);
}

TEST(GradScaler, ScalesListsAndKeepsDtypes) {
  GradScaler scaler({.init_scale = 8});
  const auto scaled = scaler.scale(
      {torch::ones({2}), torch::full({1}, 2.0, torch::kHalf), torch::ones({1}, torch::kBFloat16)});
  ASSERT_EQ(scaled.size(), 3U);
  EXPECT_TRUE(torch::equal(scaled[0], torch::full({2}, 8.0F)));
  EXPECT_EQ(scaled[1].scalar_type(), torch::kHalf);
  EXPECT_EQ(scaled[1].item<float>(), 16.0F);
  EXPECT_EQ(scaled[2].scalar_type(), torch::kBFloat16);
}

TEST(GradScaler, DisabledPassesEverythingThrough) {
  Unit unit;
  GradScaler scaler({.enabled = false});
  const torch::Tensor loss = torch::ones({});
  EXPECT_TRUE(scaler.scale(loss).is_same(loss));
  unit.set_gradient(torch::full({2}, kInf));
  scaler.unscale_(unit.optimizer);
  EXPECT_TRUE(scaler.step(unit.optimizer).stepped);
  EXPECT_EQ(unit.parameter[0].item<float>(), -kInf);
  EXPECT_NO_THROW(scaler.update());
  EXPECT_EQ(scaler.get_scale(), 1.0);
}

class Pair : public torch::nn::Module {
 public:
  Pair() {
    left = register_parameter("left", torch::ones({4}));
    right = register_parameter("right", torch::ones({2}));
  }
  torch::Tensor left, right;
};

TEST(GradScaler, NamesWhatOverflowed) {
  Pair module;
  torch::optim::SGD optimizer(module.parameters(), torch::optim::SGDOptions(1.0));
  for (const bool named : {false, true}) {
    GradScaler scaler;
    if (named) scaler.name_parameters(module);
    scaler.scale(torch::ones({}));
    module.left.mutable_grad() = torch::tensor({1.0F, NAN, kInf, 1.0F});
    module.right.mutable_grad() = torch::ones({2});
    const StepResult result = scaler.step(optimizer);
    EXPECT_THAT(result.overflow, ElementsAre(named ? "left" : "group 0, parameter 0"));
    EXPECT_THAT(result.non_finite_shares, ElementsAre(0.5));
  }
}

}  // namespace
}  // namespace halftone::grad_scaler_test
