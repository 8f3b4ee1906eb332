// SPDX-License-Identifier: Apache-2.0
// Parameters that have no gradient take no part in a step, as in torch.optim.
#include <gtest/gtest.h>
#include <torch/optim/adamw.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include "halftone/core/error.h"
#include "halftone/kernels/linear/fused_grad_accumulation.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/optim/adamw.h"
#include "halftone/optim/clip.h"
#include "halftone/optim/optimizer_in_backward.h"
#include "halftone/precision/grad_scaler.h"
#include "support/adamw_layout.h"
#include "support/compute_contexts.h"
#include "support/temp_folder.h"

namespace halftone::adamw_frozen_test {
namespace {

using test::Layout;
using torch::Tensor;

constexpr std::int64_t kWidth = 72;  // enough elements for small moments, and a last block in part

/// Three layers in a row.
struct Layers {
  explicit Layers(torch::ScalarType dtype = torch::kFloat) {
    torch::manual_seed(3);
    for (int i = 0; i < 3; ++i)
      weights.push_back((torch::randn({kWidth, kWidth}) / 8).to(dtype).requires_grad_());
  }
  std::vector<std::pair<std::string, Tensor>> named() const {
    return {{"a", weights[0]}, {"b", weights[1]}, {"c", weights[2]}};
  }
  /// `reaches_last`: whether the last layer takes part.
  Tensor loss(int step, bool reaches_last = true) const {
    torch::manual_seed(static_cast<std::uint64_t>(step));
    const Tensor x = torch::randn({4, kWidth}).to(weights[0].scalar_type());
    Tensor y = x.mm(weights[0]).tanh().mm(weights[1]).tanh();
    if (reaches_last) y = y.mm(weights[2]);
    return y.to(torch::kFloat).square().sum();
  }
  std::vector<Tensor> weights;
};

/// One layer is frozen from the start, in the middle of the run, and the last one is left out of
/// the loss now and then.
bool is_frozen(int layer, int step) { return layer == 1 && (step < 2 || step == 5 || step == 6); }
bool reaches_last(int step) { return step % 3 != 1; }
constexpr int kSteps = 10;

template <class Optimizer, class Step>
void train(const Layers& layers, Optimizer& optimizer, int from, int to, const Step& apply) {
  for (int step = from; step < to; ++step) {
    for (int i = 0; i < 3; ++i)
      Tensor(layers.weights[static_cast<std::size_t>(i)]).set_requires_grad(!is_frozen(i, step));
    optimizer.zero_grad();
    apply(layers.loss(step, reaches_last(step)));
  }
}

TEST(FrozenParameters, FollowTorchThroughFreezingAndUnfreezing) {
  const Layers theirs;
  torch::optim::AdamW torchs(theirs.weights, torch::optim::AdamWOptions(0.01).weight_decay(0.5));
  train(theirs, torchs, 0, kSteps, [&](const Tensor& loss) {
    loss.backward();
    torchs.step();
  });
  const auto expect_the_same = [&](const Layers& ours) {
    for (std::size_t i = 0; i < 3; ++i)
      EXPECT_TRUE(at::allclose(ours.weights[i], theirs.weights[i], 1e-5, 1e-6)) << i;
  };

  const Layers whole;
  AdamW optimizer(whole.named(), {.lr = 0.01, .weight_decay = 0.5});
  train(whole, optimizer, 0, kSteps, [&](const Tensor& loss) {
    loss.backward();
    optimizer.step();
  });
  expect_the_same(whole);

  const Layers released;
  AdamW releasing(released.named(), {.lr = 0.01, .weight_decay = 0.5, .release_gradients = true});
  train(released, releasing, 0, kSteps,
        [&](const Tensor& loss) { release_gradients(releasing, [&] { loss.backward(); }); });
  expect_the_same(released);

  // The zero_grad() of the base class leaves no gradients, autograd makes new ones.
  const Layers replaced;
  AdamW replacing(replaced.named(), {.lr = 0.01, .weight_decay = 0.5});
  torch::optim::Optimizer& base = replacing;
  train(replaced, base, 0, kSteps, [&](const Tensor& loss) {
    loss.backward();
    base.step();
  });
  expect_the_same(replaced);
}

std::vector<Layout> layouts(const std::filesystem::path& folder) {
  std::vector<Layout> all;
  for (const auto moments :
       {MomentStorage::kFloat32, MomentStorage::kBFloat16, MomentStorage::kInt8})
    for (const bool release : {false, true})
      for (const bool offload : {false, true}) {
        const AdamWOptions plain{.lr = 0.1,
                                 .weight_decay = 0.5,
                                 .stochastic_rounding = true,
                                 .seed = 5,
                                 .moments = moments,
                                 .release_gradients = release,
                                 .offload = offload ? folder : std::filesystem::path()};
        all.push_back({torch::kFloat, plain});
        for (const auto master :
             {MasterWeights::kNone, MasterWeights::kSplit16, MasterWeights::kSplit8}) {
          all.push_back({torch::kBFloat16, plain});
          all.back().options.master = master;
          all.back().options.fp32_gradients = master == MasterWeights::kSplit8;
        }
      }
  return all;
}

void step(AdamW& optimizer, const Tensor& loss) {
  if (optimizer.options().release_gradients) {
    release_gradients(optimizer, [&] { loss.backward(); });
  } else {
    loss.backward();
    optimizer.step();
  }
}

/// Everything of one parameter: weight, moments, master.
std::vector<Tensor> kept_of(const Layers& layers, const AdamW& optimizer, std::size_t index) {
  std::vector<Tensor> all{layers.weights[index].detach().clone()};
  for (const auto& [name, tensor] : optimizer.state_dict().tensors)
    if (name.starts_with(optimizer.parameter_names()[index] + ".")) all.push_back(tensor.clone());
  return all;
}

void expect_same_bits(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(torch::equal(a[i], b[i])) << i;
}

TEST(FrozenParameters, KeepTheirBitsInEveryLayout) {
  const test::TempFolder folder;
  for (const Layout& layout : layouts(folder.path())) {
    SCOPED_TRACE(text(layout));
    const Layers layers(layout.dtype);
    AdamW optimizer(layers.named(), layout.options);
    // With moments first, then as a frozen one, then as one that is not reached.
    for (int i = 0; i < 2; ++i) {
      optimizer.zero_grad();
      step(optimizer, layers.loss(i));
    }
    Tensor(layers.weights[1]).set_requires_grad(false);
    const std::vector<Tensor> frozen = kept_of(layers, optimizer, 1);
    const std::vector<Tensor> unreached = kept_of(layers, optimizer, 2);
    const std::vector<Tensor> trained = kept_of(layers, optimizer, 0);
    for (int i = 2; i < 5; ++i) {
      optimizer.zero_grad();
      step(optimizer, layers.loss(i, false));
    }
    expect_same_bits(kept_of(layers, optimizer, 1), frozen);
    expect_same_bits(kept_of(layers, optimizer, 2), unreached);
    EXPECT_FALSE(kept_of(layers, optimizer, 0).front().equal(trained.front()));
    EXPECT_EQ(optimizer.step_count(), 5);
  }
}

TEST(FrozenParameters, AreSavedAndResumed) {
  const test::TempFolder folder;
  for (const Layout& layout : layouts(folder.path())) {
    SCOPED_TRACE(text(layout));
    const Layers straight(layout.dtype), stopped(layout.dtype);
    AdamW whole(straight.named(), layout.options);
    train(straight, whole, 0, kSteps, [&](const Tensor& loss) { step(whole, loss); });

    StateDict saved;
    {
      AdamW first(stopped.named(), layout.options);
      train(stopped, first, 0, 7, [&](const Tensor& loss) { step(first, loss); });
      EXPECT_EQ(first.state_dict().get<std::int64_t>("b.step"), 3);
      EXPECT_EQ(first.state_dict().get<std::int64_t>("c.step"), 5);
      EXPECT_FALSE(first.state_dict().values.contains("a.step"));
      saved = first.state_dict();
      for (auto& [name, tensor] : saved.tensors) tensor = tensor.clone();
    }
    Layers fresh(layout.dtype);
    for (std::size_t i = 0; i < 3; ++i) fresh.weights[i].set_data(stopped.weights[i].detach());
    AdamW resumed(fresh.named(), layout.options);
    resumed.load_state_dict(saved);
    train(fresh, resumed, 7, kSteps, [&](const Tensor& loss) { step(resumed, loss); });
    for (std::size_t i = 0; i < 3; ++i)
      expect_same_bits(kept_of(fresh, resumed, i), kept_of(straight, whole, i));
    EXPECT_EQ(resumed.state_dict().values, whole.state_dict().values);

    saved.values["b.step"] = std::int64_t{8};
    EXPECT_THROW(resumed.load_state_dict(saved), UserError);
  }
}

TEST(FrozenParameters, StayOutOfUnscalingClippingAndNorms) {
  for (const bool by_value : {false, true}) {
    const Layers layers;
    AdamW optimizer(layers.named(), {.lr = 0.1, .weight_decay = 0.5});
    GradScaler scaler({.init_scale = 8});
    Tensor(layers.weights[1]).set_requires_grad(false);
    optimizer.zero_grad();
    const std::vector<Tensor> frozen = kept_of(layers, optimizer, 1);
    const std::vector<Tensor> unreached = kept_of(layers, optimizer, 2);
    scaler.scale(layers.loss(0, false)).backward();
    scaler.unscale_(optimizer);
    const double norm = layers.weights[0].grad().norm().item<double>();
    if (by_value)
      clip_grad_value_(layers.weights, 1e-3);
    else
      EXPECT_NEAR(clip_grad_norm_(layers.weights, 1e-3).item<double>(), norm, 1e-5 * norm);
    EXPECT_TRUE(scaler.step(optimizer).stepped);
    expect_same_bits(kept_of(layers, optimizer, 1), frozen);
    expect_same_bits(kept_of(layers, optimizer, 2), unreached);
  }
}

// A gradient of zeros is one: weights decay, as in torch.
TEST(FrozenParameters, AreNotThoseWhoseGradientIsZero) {
  const auto expect_decayed = [](const std::function<void(const Tensor&)>& give_gradient) {
    const Layers layers;
    AdamW optimizer(layers.named(), {.lr = 0.1, .weight_decay = 0.5});
    const Tensor before = layers.weights[0].detach().clone();
    optimizer.zero_grad();
    give_gradient(layers.weights[0]);
    optimizer.step();
    EXPECT_TRUE(at::allclose(layers.weights[0], before * 0.95));
    EXPECT_TRUE(layers.weights[1].equal(Layers().weights[1]));
  };
  expect_decayed([](const Tensor& w) { (w * 0.0).sum().backward(); });
  expect_decayed([](const Tensor& w) { w.mutable_grad().zero_(); });
  expect_decayed([](const Tensor& w) { w.mutable_grad() = torch::zeros_like(w); });
  expect_decayed([](const Tensor& w) {  // written by the matmul itself, for all rows of none
    const ComputeScope in_place(test::accumulating_in_place());
    halftone::linear(torch::zeros({0, kWidth}), w).sum().backward();
  });
}

TEST(FrozenParameters, AreNotThoseWhoseGradientWasWrittenThroughAPointer) {
  const Layers layers;
  AdamW optimizer(layers.named(), {.lr = 0.1, .weight_decay = 0.0});
  const Tensor before = layers.weights[0].detach().clone();
  optimizer.zero_grad();
  std::fill_n(layers.weights[0].grad().data_ptr<float>(), kWidth * kWidth, 2.0F);
  optimizer.step();
  EXPECT_TRUE(at::allclose(layers.weights[0], before - 0.1, 1e-4, 1e-6));
}

}  // namespace
}  // namespace halftone::adamw_frozen_test
