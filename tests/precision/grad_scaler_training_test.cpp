// SPDX-License-Identifier: Apache-2.0
// Whole loops: training with a scale must equal training without one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <functional>
#include <limits>

#include "halftone/autocast/autocast.h"
#include "halftone/core/error.h"
#include "halftone/optim/adamw.h"
#include "halftone/optim/clip.h"
#include "halftone/precision/grad_scaler.h"

namespace halftone::grad_scaler_training_test {
namespace {

using torch::optim::Optimizer;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr int kIterations = 4;
constexpr int kSkipped = 1;  // the iteration whose gradient overflows
constexpr double kExact = 1e-7;
constexpr double kClipped = 1e-5;
constexpr double kAutocast = 1e-3;

// Two layers; the same numbers each time.
struct Model {
  torch::Tensor first, second;
  Model() {
    torch::manual_seed(5);
    first = (torch::randn({8, 8}) / 3).requires_grad_();
    second = (torch::randn({8, 8}) / 3).requires_grad_();
  }
  std::vector<torch::Tensor> parameters() const { return {first, second}; }
  torch::Tensor loss(int i) const {
    const torch::Tensor x =
        ((torch::arange(64) * (i + 3)) % 17).to(torch::kFloat).reshape({8, 8}) / 17;
    return at::mse_loss(torch::mm(torch::mm(x, first), second), x.t());
  }
};

using MakeOptimizer = std::function<std::unique_ptr<Optimizer>(const Model&)>;

template <class Torch, class Options>
MakeOptimizer make_torch(Options options) {
  return [=](const Model& model) { return std::make_unique<Torch>(model.parameters(), options); };
}

std::unique_ptr<Optimizer> make_ours(const Model& model) {
  return std::make_unique<AdamW>(model.parameters(), AdamWOptions{.lr = 0.01});
}

// One iteration of the harness, from backward() to step().
struct Loop {
  GradScaler& scaler;
  Optimizer& optimizer;
  Model& model;
  bool scaling;
  void backward(const torch::Tensor& loss) const {
    (scaling ? scaler.scale(loss) : loss).backward();
  }
  void step() const {
    if (scaling) {
      scaler.step(optimizer);
    } else {
      optimizer.step();
    }
  }
};
using Body = std::function<void(const Loop&, int)>;

// The control run leaves the skipped step out by hand.
Model train(const MakeOptimizer& make, const Body& body, GradScaler& scaler, bool scaling) {
  Model model;
  const std::unique_ptr<Optimizer> optimizer = make(model);
  for (int i = 0; i < kIterations; ++i) {
    if (!scaling && i == kSkipped) continue;
    optimizer->zero_grad();
    body({scaler, *optimizer, model, scaling}, i);
    if (scaling) scaler.update();
  }
  return model;
}

void inject(const Loop& loop, int i) {
  if (loop.scaling && i == kSkipped && loop.scaler.is_enabled())
    loop.model.second.mutable_grad()[3][2].fill_(kInf);
}

void expect_same_training(const MakeOptimizer& make, const Body& body, double tolerance) {
  GradScaler scaler({.init_scale = 128, .growth_interval = 1});
  const Model ours = train(make, body, scaler, true);
  const Model control = train(make, body, scaler, false);
  EXPECT_TRUE(torch::allclose(ours.first, control.first, tolerance, tolerance));
  EXPECT_TRUE(torch::allclose(ours.second, control.second, tolerance, tolerance));
  EXPECT_EQ(scaler.get_scale(), 128 * 8 * 0.5);

  // Disabled: the same as no scaler, and nothing is skipped.
  GradScaler off({.enabled = false});
  const Model disabled = train(make, body, off, true);
  Model plain;
  const std::unique_ptr<Optimizer> optimizer = make(plain);
  for (int i = 0; i < kIterations; ++i) {
    optimizer->zero_grad();
    body({off, *optimizer, plain, false}, i);
  }
  EXPECT_TRUE(torch::equal(disabled.first, plain.first));
  EXPECT_EQ(off.get_scale(), 1.0);
}

const Body kPlain = [](const Loop& loop, int i) {
  loop.backward(loop.model.loss(i));
  inject(loop, i);
  loop.step();
};

class Optimizers : public testing::TestWithParam<std::pair<const char*, MakeOptimizer>> {};

TEST_P(Optimizers, EqualAnUnscaledRun) { expect_same_training(GetParam().second, kPlain, kExact); }

TEST_P(Optimizers, EqualAnUnscaledRunUnderAutocast) {
  const Body body = [](const Loop& loop, int i) {
    torch::Tensor loss;
    {
      const Autocast autocast(torch::kCPU, torch::kHalf);
      loss = loop.model.loss(i);
    }
    loop.backward(loss);
    inject(loop, i);
    loop.step();
  };
  expect_same_training(GetParam().second, body, kAutocast * 10);
}

TEST_P(Optimizers, ClipTheScaledGradientsToAScaledNorm) {
  const Body body = [](const Loop& loop, int i) {
    loop.backward(loop.model.loss(i));
    inject(loop, i);
    const double scale = loop.scaling ? loop.scaler.get_scale() : 1.0;
    clip_grad_norm_(loop.model.parameters(), 0.05 * scale);
    loop.step();
  };
  expect_same_training(GetParam().second, body, kClipped);
}

TEST_P(Optimizers, ClipAfterUnscaling) {
  const Body body = [](const Loop& loop, int i) {
    loop.backward(loop.model.loss(i));
    inject(loop, i);
    if (loop.scaling) loop.scaler.unscale_(loop.optimizer);
    clip_grad_norm_(loop.model.parameters(), 0.05);
    loop.step();
  };
  expect_same_training(GetParam().second, body, kExact);
}

TEST_P(Optimizers, CanTrainWithAGradientPenalty) {
  const Body body = [](const Loop& loop, int i) {
    torch::Tensor loss = loop.model.loss(i);
    const auto gradients = torch::autograd::grad({loop.scaling ? loop.scaler.scale(loss) : loss},
                                                 loop.model.parameters(), {}, true, true);
    const double inverse = loop.scaling ? 1.0 / loop.scaler.get_scale() : 1.0;
    torch::Tensor norm_squared = torch::zeros({});
    for (const torch::Tensor& g : gradients)
      norm_squared = norm_squared + (g * inverse).square().sum();
    loss = loss + norm_squared.sqrt();
    loop.backward(loss);
    inject(loop, i);
    loop.step();
  };
  expect_same_training(GetParam().second, body, kExact * 10);
}

INSTANTIATE_TEST_SUITE_P(
    GradScaler, Optimizers,
    testing::Values(
        std::pair<const char*, MakeOptimizer>{
            "SGD", make_torch<torch::optim::SGD>(torch::optim::SGDOptions(0.1).momentum(0.5))},
        std::pair<const char*, MakeOptimizer>{
            "Adam", make_torch<torch::optim::Adam>(torch::optim::AdamOptions(0.01))},
        std::pair<const char*, MakeOptimizer>{
            "TorchAdamW", make_torch<torch::optim::AdamW>(torch::optim::AdamWOptions(0.01))},
        std::pair<const char*, MakeOptimizer>{
            "Amsgrad",
            make_torch<torch::optim::AdamW>(torch::optim::AdamWOptions(0.01).amsgrad(true))},
        std::pair<const char*, MakeOptimizer>{
            "Adagrad", make_torch<torch::optim::Adagrad>(torch::optim::AdagradOptions(0.01))},
        std::pair<const char*, MakeOptimizer>{
            "RMSprop", make_torch<torch::optim::RMSprop>(torch::optim::RMSpropOptions(0.01))},
        std::pair<const char*, MakeOptimizer>{"AdamW", make_ours}),
    [](const auto& tested) { return tested.param.first; });

TEST(GradScalerTraining, AccumulatesOverMicroBatches) {
  torch::Tensor expected;
  for (const bool scaling : {false, true}) {
    GradScaler scaler({.init_scale = 128, .growth_interval = 1, .enabled = scaling});
    Model model;
    AdamW optimizer(model.parameters(), {.lr = 0.01});
    for (int i = 0; i < 4; ++i) {
      scaler.scale(model.loss(i) / 2).backward();
      if (i % 2 == 0) continue;
      EXPECT_TRUE(scaler.step(optimizer).stepped);
      scaler.update();
      optimizer.zero_grad();
    }
    EXPECT_EQ(scaler.get_scale(), scaling ? 512.0 : 1.0);
    if (!expected.defined()) expected = model.first.detach().clone();
    EXPECT_TRUE(torch::allclose(model.first, expected, kExact, kExact));
  }
}

TEST(GradScalerTraining, OneScalerServesTwoOptimizers) {
  Model a, b;
  Model control_a, control_b;
  torch::optim::SGD first(a.parameters(), 0.1);
  torch::optim::SGD second(b.parameters(), 0.1);
  torch::optim::SGD control_first(control_a.parameters(), 0.1);
  torch::optim::SGD control_second(control_b.parameters(), 0.1);
  GradScaler scaler({.init_scale = 128, .growth_interval = 1});
  for (int i = 0; i < kIterations; ++i) {
    for (Optimizer* o : std::vector<Optimizer*>{&first, &second, &control_first, &control_second})
      o->zero_grad();
    const torch::Tensor loss = 0.3 * a.loss(i) + 0.7 * b.loss(i + 1);
    const torch::Tensor other = 0.6 * a.loss(i) - 0.4 * b.loss(i + 1);
    const auto scaled = scaler.scale({loss, other});
    scaled[0].backward({}, /*retain_graph=*/true);
    scaled[1].backward();
    if (i == kSkipped) b.first.mutable_grad()[0][0] = kInf;
    scaler.unscale_(first);
    EXPECT_TRUE(scaler.step(first).stepped);
    EXPECT_EQ(scaler.step(second).stepped, i != kSkipped);
    scaler.update();

    (0.9 * control_a.loss(i) + 0.3 * control_b.loss(i + 1)).backward();
    control_first.step();
    if (i != kSkipped) control_second.step();
  }
  EXPECT_EQ(scaler.get_scale(), 128 * 8 * 0.5);  // one backoff for both
  EXPECT_TRUE(torch::allclose(a.first, control_a.first, 1e-5, 1e-6));
  EXPECT_TRUE(torch::allclose(b.first, control_b.first, 1e-5, 1e-6));
}

// The fused step against unscale_, clip_grad_norm_, step.
class Fused : public testing::TestWithParam<std::tuple<bool, double, bool>> {};

TEST_P(Fused, EqualsTheSeparateOperations) {
  const auto [enabled, clip_norm, unscale_first] = GetParam();
  const GradScalerOptions options{.init_scale = 128, .growth_interval = 1, .enabled = enabled};
  GradScaler fused(options), separate(options);
  Model ours, theirs;
  AdamW a(ours.parameters(), {.lr = 0.01});
  AdamW b(theirs.parameters(), {.lr = 0.01});
  for (int i = 0; i < kIterations; ++i) {
    fused.scale(ours.loss(i)).backward();
    separate.scale(theirs.loss(i)).backward();
    const bool overflow = i == kSkipped && enabled;
    if (overflow) {
      ours.second.mutable_grad()[1][1] = kInf;
      theirs.second.mutable_grad()[1][1] = kInf;
    }
    if (unscale_first) fused.unscale_(a);
    const StepResult result = fused.step(a, {.clip_norm = clip_norm});
    separate.unscale_(b);
    const double norm =
        clip_grad_norm_(theirs.parameters(), clip_norm > 0 ? clip_norm : 1e9).item<double>();
    EXPECT_EQ(separate.step(static_cast<Optimizer&>(b)).stepped, !overflow);

    EXPECT_EQ(result.stepped, !overflow);
    EXPECT_EQ(result.overflow.size(), overflow ? 1U : 0U);
    if (overflow) {
      EXPECT_FALSE(std::isfinite(result.grad_norm));
      EXPECT_EQ(result.overflow[0], "group 0, parameter 1");
      EXPECT_DOUBLE_EQ(result.non_finite_shares[0], 1.0 / 64);
    } else {
      EXPECT_NEAR(result.grad_norm, norm, 1e-5 * norm);
    }
    fused.update();
    separate.update();
    EXPECT_EQ(fused.get_scale(), separate.get_scale());
    a.zero_grad();
    b.zero_grad();
  }
  EXPECT_EQ(a.step_count(), b.step_count());
  EXPECT_EQ(a.step_count(), enabled ? kIterations - 1 : kIterations);
  EXPECT_TRUE(torch::allclose(ours.first, theirs.first, kClipped, kClipped));
  EXPECT_TRUE(torch::allclose(ours.second, theirs.second, kClipped, kClipped));
}

INSTANTIATE_TEST_SUITE_P(GradScaler, Fused,
                         testing::Combine(testing::Bool(), testing::Values(0.0, 0.05, 100.0),
                                          testing::Bool()));

// Results may be read late, or never; the training is the same.
TEST(GradScalerTraining, AStepThatIsNotWaitedForIsTheSameStep) {
  for (const bool read : {false, true}) {
    Model ours, theirs;
    AdamW a(ours.parameters(), {.lr = 0.01});
    AdamW b(theirs.parameters(), {.lr = 0.01});
    const GradScalerOptions options{.init_scale = 128, .growth_interval = 1, .adaptive = true};
    GradScaler queued(options), waited(options);
    std::vector<PendingStep> pending;
    std::vector<StepResult> results;
    for (int i = 0; i < kIterations; ++i) {
      queued.scale(ours.loss(i)).backward();
      waited.scale(theirs.loss(i)).backward();
      if (i == kSkipped) {
        ours.second.mutable_grad()[1][1] = kInf;
        theirs.second.mutable_grad()[1][1] = kInf;
      }
      pending.push_back(queued.step_async(a, {.clip_norm = 0.05}));
      results.push_back(waited.step(b, {.clip_norm = 0.05}));
      queued.update();
      waited.update();
      a.zero_grad();
      b.zero_grad();
    }
    EXPECT_TRUE(torch::equal(ours.first, theirs.first));
    EXPECT_EQ(queued.state_dict().values, waited.state_dict().values);
    for (int i = 0; read && i < kIterations; ++i) {
      const StepResult late = pending[static_cast<std::size_t>(i)].result();
      const StepResult& result = results[static_cast<std::size_t>(i)];
      EXPECT_EQ(late.stepped, i != kSkipped);
      EXPECT_EQ(late.overflow, result.overflow);
      EXPECT_EQ(late.non_finite_shares, result.non_finite_shares);
      if (result.stepped) {
        EXPECT_EQ(late.grad_norm, result.grad_norm);
      }
    }
  }
}

TEST(GradScalerTraining, AHopelessQueueEndsAtTheUpdateAfterItsResultIsRead) {
  Model model;
  AdamW optimizer(model.parameters());
  GradScaler scaler({.init_scale = 1, .max_skips_at_floor = 3});
  std::vector<PendingStep> pending;
  const auto overflow = [&] {
    scaler.scale(model.loss(0)).backward();
    model.second.mutable_grad()[0][0] = NAN;
    pending.push_back(scaler.step_async(optimizer));
    optimizer.zero_grad();
  };
  for (int i = 0; i < 5; ++i) {
    overflow();
    EXPECT_FALSE(scaler.update().hopeless);  // nobody has looked
  }
  EXPECT_EQ(pending[1].result().skips_at_floor, 2);
  EXPECT_EQ(pending[4].result().skips_at_floor, 5);
  overflow();
  EXPECT_TRUE(scaler.update().hopeless);
}

TEST(GradScalerTraining, WithoutAScaleTheSkipsAreCountedToo) {
  Model model;
  AdamW optimizer(model.parameters());
  GradScaler off({.enabled = false, .max_skips_at_floor = 3});
  for (int i = 0; i < 3; ++i) {
    optimizer.zero_grad();
    model.loss(0).backward();
    model.second.mutable_grad()[0][0] = NAN;
    EXPECT_EQ(off.step(optimizer).skips_at_floor, i + 1);
    EXPECT_EQ(off.update().hopeless, i == 2);
  }
}

// Sparse gradients of an embedding, through an optimizer that takes them.
TEST(GradScalerTraining, TrainsSparseEmbeddings) {
  const auto train_table = [](GradScaler& scaler) {
    torch::Tensor table = torch::linspace(-1, 1, 12).reshape({6, 2}).clone().requires_grad_();
    torch::optim::Adagrad optimizer({table}, torch::optim::AdagradOptions(0.1));
    for (int i = 0; i < kIterations; ++i) {
      optimizer.zero_grad();
      const torch::Tensor rows = torch::tensor({i, 3, i + 1, 3}, torch::kLong);
      const torch::Tensor loss =
          torch::embedding(table, rows, -1, false, /*sparse=*/true).square().sum();
      scaler.scale(loss).backward();
      if (scaler.is_enabled() && i == kSkipped) table.mutable_grad()._values()[0][0] = kInf;
      const StepResult result = scaler.step(optimizer);
      EXPECT_EQ(result.stepped, !scaler.is_enabled() || i != kSkipped);
      if (!result.stepped) {
        EXPECT_EQ(result.non_finite_shares[0], 1.0 / 8);
      }
      scaler.update();
    }
    return table.detach();
  };
  GradScaler scaler({.init_scale = 128, .growth_interval = 1});
  const torch::Tensor scaled = train_table(scaler);
  EXPECT_EQ(scaler.get_scale(), 128 * 8 * 0.5);

  torch::Tensor table = torch::linspace(-1, 1, 12).reshape({6, 2}).clone().requires_grad_();
  torch::optim::Adagrad optimizer({table}, torch::optim::AdagradOptions(0.1));
  for (int i = 0; i < kIterations; ++i) {
    if (i == kSkipped) continue;
    optimizer.zero_grad();
    const torch::Tensor rows = torch::tensor({i, 3, i + 1, 3}, torch::kLong);
    torch::embedding(table, rows, -1, false, /*sparse=*/true).square().sum().backward();
    optimizer.step();
  }
  EXPECT_TRUE(torch::allclose(scaled, table, 1e-6, 1e-7));
}

TEST(GradScalerTraining, FusedStepWorksOnADevice_CUDA) {
  torch::Tensor weight = torch::ones({33}, torch::device(torch::kCUDA).requires_grad(true));
  AdamW optimizer({weight}, {.lr = 0.1, .weight_decay = 0.0});
  GradScaler scaler({.growth_interval = 1});
  for (int i = 0; i < kIterations; ++i) {
    scaler.scale(weight.sum()).backward();
    if (i == kSkipped) weight.mutable_grad()[7] = kInf;
    EXPECT_EQ(scaler.step(optimizer, {.clip_norm = 1.0}).stepped, i != kSkipped);
    scaler.update();
    optimizer.zero_grad();
  }
  EXPECT_EQ(scaler.get_scale(), 65536 * 8 * 0.5);
  EXPECT_NEAR(weight.mean().item<float>(), 0.7F, 1e-4);
}

TEST(GradScalerTraining, FusedStepKeepsTheStages) {
  Model model;
  AdamW optimizer(model.parameters());
  GradScaler scaler;
  EXPECT_THROW(scaler.step(optimizer), c10::Error);
  scaler.scale(model.loss(0)).backward();
  scaler.step(optimizer);
  EXPECT_THROW(scaler.step(optimizer), c10::Error);
  EXPECT_THROW(scaler.unscale_(optimizer), c10::Error);
  scaler.update();
  EXPECT_THROW(scaler.step(optimizer, {.clip_norm = -1}), c10::Error);
}

TEST(GradScalerTraining, FusedStepLeavesTheGradientsScaled) {
  Model model;
  AdamW optimizer(model.parameters());
  GradScaler scaler({.init_scale = 128});
  scaler.scale(model.loss(0)).backward();
  const torch::Tensor before = model.first.grad().clone();
  scaler.step(optimizer, {.clip_norm = 0.01});
  EXPECT_TRUE(torch::equal(model.first.grad(), before));
}

TEST(GradScalerTraining, FusedStepDoesNotCheckAgainAfterUnscale) {
  Model model;
  AdamW optimizer(model.parameters());
  GradScaler scaler;
  scaler.scale(model.loss(0)).backward();
  scaler.unscale_(optimizer);
  model.first.mutable_grad().fill_(kInf);
  EXPECT_TRUE(scaler.step(optimizer).stepped);
  EXPECT_FALSE(model.first.isfinite().any().item<bool>());
}

TEST(GradScalerTraining, WithoutAScaleNonFiniteStepsAreSkippedUnlessWanted) {
  for (const bool skip : {true, false}) {
    Model model;
    AdamW optimizer(model.parameters());
    GradScaler scaler({.enabled = false});
    model.loss(0).backward();
    model.second.mutable_grad()[0][0] = NAN;
    const StepResult result = scaler.step(optimizer, {.skip_non_finite = skip});
    EXPECT_EQ(result.stepped, !skip);
    EXPECT_EQ(result.overflow, std::vector<std::string>{"group 0, parameter 1"});
    EXPECT_EQ(model.second.isfinite().all().item<bool>(), skip);
    scaler.update();
  }
}

TEST(GradScalerTraining, TrainsIn16BitsAlone) {
  torch::Tensor weight = torch::ones({64}, torch::dtype(torch::kHalf).requires_grad(true));
  AdamW optimizer({weight}, {.lr = 0.05, .weight_decay = 0.0});
  GradScaler scaler({.growth_interval = 5, .allow_fp16_gradients = true});
  int skipped = 0;
  for (int i = 0; i < 60; ++i) {
    // 65536 is beyond fp16: the first scales overflow in the backward pass.
    const torch::Tensor loss = (weight.to(torch::kFloat) - 0.25).square().sum();
    scaler.scale(loss).backward();
    skipped += !scaler.step(optimizer, {.clip_norm = 1.0}).stepped;
    scaler.update();
    optimizer.zero_grad();
  }
  EXPECT_GT(skipped, 0);
  EXPECT_LT(skipped, 30);
  EXPECT_NEAR(weight.to(torch::kFloat).mean().item<float>(), 0.25F, 0.05F);
}

}  // namespace
}  // namespace halftone::grad_scaler_training_test
