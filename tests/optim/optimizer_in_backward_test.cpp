// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/optimizer_in_backward.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <cmath>
#include <memory>

#include "halftone/kernels/linear/linear.h"
#include "halftone/nn/recompute.h"
#include "halftone/optim/adamw.h"
#include "support/message_of.h"
#include "support/tensor_memory.h"

namespace halftone::optimizer_in_backward_test {
namespace {

using test::message_of;
using testing::ElementsAre;
using testing::HasSubstr;
using torch::Tensor;
using Tensors = std::vector<Tensor>;

constexpr std::int64_t kWidth = 80;  // enough elements for small moments

/// Layers of one width; the last matmul takes the first weight once more, and one weight is never
/// used.
struct Chain {
  explicit Chain(std::int64_t layers = 3, AdamWOptions options = {},
                 torch::ScalarType dtype = torch::kFloat) {
    torch::manual_seed(3);
    std::vector<std::pair<std::string, Tensor>> named;
    for (std::int64_t i = 0; i < layers; ++i) {
      const Tensor weight = (torch::randn({kWidth, kWidth}) / std::sqrt(kWidth)).to(dtype);
      weights.push_back(weight.detach().requires_grad_());
      named.emplace_back(c10::str("w", i), weights.back());
    }
    unused = torch::randn({7}).to(dtype).requires_grad_();
    named.emplace_back("unused", unused);
    optimizer = std::make_unique<AdamW>(named, options);
  }

  Tensor loss(std::int64_t step, bool recompute = false) const {
    torch::manual_seed(static_cast<std::uint64_t>(100 + step));
    Tensor x = torch::randn({5, kWidth}).to(weights.front().scalar_type());
    for (const Tensor& weight : weights) {
      const CheckpointedFunction block = [weight](const Tensors& in) {
        return Tensors{halftone::linear(in[0], weight).tanh()};
      };
      x = recompute ? halftone::recompute(block, {x}, {weight})[0] : block({x})[0];
    }
    return halftone::linear(x, weights.front()).to(torch::kFloat).square().sum();
  }

  Tensors state() const {
    Tensors all;
    for (const auto& [name, tensor] : optimizer->state_dict().tensors)
      all.push_back(tensor.clone());
    for (const Tensor& weight : weights) all.push_back(weight.detach().clone());
    all.push_back(unused.detach().clone());
    return all;
  }

  Tensors weights;
  Tensor unused;
  std::unique_ptr<AdamW> optimizer;
};

void expect_same_bits(const Tensors& a, const Tensors& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(torch::equal(a[i], b[i])) << i;
}

struct Layout {
  torch::ScalarType dtype;
  AdamWOptions options;
};

std::vector<Layout> layouts() {
  std::vector<Layout> all;
  for (const auto moments : {MomentStorage::kFloat32, MomentStorage::kInt8}) {
    all.push_back({torch::kFloat, {.lr = 0.01, .moments = moments}});
    for (const auto master :
         {MasterWeights::kNone, MasterWeights::kSplit16, MasterWeights::kSplit8})
      all.push_back({torch::kBFloat16,
                     {.lr = 0.01,
                      .stochastic_rounding = true,
                      .seed = 4,
                      .master = master,
                      .moments = moments,
                      .fp32_gradients = master == MasterWeights::kSplit8}});
  }
  return all;
}

/// Three ordinary steps.
Tensors ordinary(const Layout& layout, double clip_norm) {
  Chain chain(3, layout.options, layout.dtype);
  for (int step = 0; step < 3; ++step) {
    chain.optimizer->zero_grad();
    chain.loss(step).backward();
    const Tensor norm = chain.optimizer->gradient_stats().norm_squared.sqrt();
    const Tensor factor =
        clip_norm > 0 ? (clip_norm / (norm + 1e-6)).clamp_max(1.0) : at::ones_like(norm);
    chain.optimizer->step_scaled(factor, torch::zeros({}));
  }
  return chain.state();
}

Tensors released(Layout layout, double clip_norm, bool recompute) {
  layout.options.release_gradients = true;
  Chain chain(3, layout.options, layout.dtype);
  for (int step = 0; step < 3; ++step) {
    const Tensor loss = chain.loss(step, recompute);
    ReleaseOptions options{.clip_norm = clip_norm};
    if (clip_norm > 0)
      options.measured =
          measure_gradients(*chain.optimizer, [&] { loss.backward({}, /*retain_graph=*/true); });
    release_gradients(
        *chain.optimizer, [&] { loss.backward(); }, options);
    for (const Tensor& weight : chain.weights) EXPECT_FALSE(weight.grad().defined());
  }
  EXPECT_TRUE(chain.unused.equal(Chain(3, layout.options, layout.dtype).unused));
  return chain.state();
}

TEST(GradientRelease, HasTheBitsOfTheOrdinaryStep) {
  for (const Layout& layout : layouts())
    for (const double clip_norm : {0.0, 0.5})
      for (const bool recompute : {false, true})
        expect_same_bits(ordinary(layout, clip_norm), released(layout, clip_norm, recompute));
}

TEST(GradientRelease, ReturnsTheStatisticsOfAllGradients) {
  Chain whole, parts(3, {.release_gradients = true});
  whole.loss(0).backward();
  const GradientStats expected = whole.optimizer->gradient_stats();
  const Tensors before = parts.state();
  const Tensor loss = parts.loss(0);
  const GradientStats measured =
      measure_gradients(*parts.optimizer, [&] { loss.backward({}, /*retain_graph=*/true); });
  expect_same_bits(parts.state(), before);
  const GradientStats applied = release_gradients(*parts.optimizer, [&] { loss.backward(); });
  for (const GradientStats& stats : {measured, applied}) {
    EXPECT_EQ(stats.norm_squared.item<double>(), expected.norm_squared.item<double>());
    EXPECT_TRUE(stats.non_finite.equal(expected.non_finite));
  }
}

TEST(GradientRelease, ClipsByTheLargerOfTheStepBeforeAndTheGradientsSoFar) {
  for (const double share : {0.1, 0.9, 3.0}) {  // of the whole norm
    Chain by_hand(3, {.lr = 0.01}), chain(3, {.lr = 0.01, .release_gradients = true});
    by_hand.loss(0).backward();
    const double whole = std::sqrt(by_hand.optimizer->gradient_stats().norm_squared.item<double>());
    const double previous = share * whole, clip_norm = 0.3 * whole;
    double so_far = 0;
    for (const std::size_t i : {2U, 1U, 0U, 3U}) {  // the tied weight waits for its first use
      so_far += by_hand.optimizer->arena().stats(i).norm_squared.item<double>();
      const double norm = std::max(previous, std::sqrt(so_far));
      const Tensor factor =
          torch::full({}, std::min(1.0, clip_norm / (norm + 1e-6)), torch::kDouble);
      by_hand.optimizer->step_parameter(i, factor, torch::zeros({}));
    }
    by_hand.optimizer->finish_step(torch::zeros({}));
    release_gradients(*chain.optimizer, [&] { chain.loss(0).backward(); },
                      {.clip_norm = clip_norm, .previous_norm = previous});
    expect_same_bits(chain.state(), by_hand.state());
  }
}

/// Makes the gradient of a weight inf from outside.
void poison(const Tensor& weight) {
  weight.register_hook([](const Tensor& gradient) { return gradient * INFINITY; });
}

TEST(GradientRelease, AppliesNothingFromTheFirstGradientOnThatIsNotFinite) {
  Chain chain(3, {.release_gradients = true});
  const Tensors before = {chain.weights[0].detach().clone(), chain.weights[1].detach().clone(),
                          chain.weights[2].detach().clone(), chain.unused.detach().clone()};
  poison(chain.weights[1]);
  const GradientStats stats =
      release_gradients(*chain.optimizer, [&] { chain.loss(0).backward(); });
  EXPECT_FALSE(std::isfinite(stats.norm_squared.item<double>()));
  EXPECT_GT(stats.non_finite[1].item<std::int64_t>(), 0);
  EXPECT_EQ(stats.non_finite[2].item<std::int64_t>(), 0);
  EXPECT_FALSE(chain.weights[2].equal(before[2]));  // came before
  EXPECT_TRUE(chain.weights[1].equal(before[1]));
  EXPECT_TRUE(chain.weights[0].equal(before[0]));
  EXPECT_TRUE(chain.unused.equal(before[3]));
  EXPECT_EQ(chain.optimizer->step_count(), 0);
}

TEST(GradientRelease, AppliesNothingAtAllWhereItHasMeasured) {
  Chain chain(3, {.release_gradients = true});
  const Tensors before = chain.state();
  poison(chain.weights[1]);
  const Tensor loss = chain.loss(0);
  const ReleaseOptions options{.clip_norm = 1.0,
                               .measured = measure_gradients(*chain.optimizer, [&] {
                                 loss.backward({}, /*retain_graph=*/true);
                               })};
  release_gradients(
      *chain.optimizer, [&] { loss.backward(); }, options);
  expect_same_bits(chain.state(), before);
}

TEST(GradientRelease, TensorsThatShareMemoryAreOneParameter) {
  const auto pair_of = [] {
    torch::manual_seed(6);
    const Tensor one = torch::randn({4, 4}).requires_grad_();
    return Tensors{one, one.detach().requires_grad_()};
  };
  const auto loss_of = [](const Tensors& w) {
    const Tensor x = torch::ones({2, 4});
    return x.mm(w[0]).tanh().mm(w[1]).square().sum();
  };
  const Tensors whole = pair_of(), parts = pair_of();
  AdamW ordinary(whole, {.lr = 0.1}), releasing(parts, {.lr = 0.1, .release_gradients = true});
  ASSERT_EQ(releasing.parameter_names().size(), 1U);
  loss_of(whole).backward();
  ordinary.step();
  release_gradients(releasing, [&] { loss_of(parts).backward(); });
  EXPECT_TRUE(parts[0].equal(whole[0]));
  EXPECT_EQ(parts[0].data_ptr(), parts[1].data_ptr());
}

struct Counter : torch::autograd::PostAccumulateGradHook {
  explicit Counter(std::vector<bool>& calls) : calls_(calls) {}
  void operator()(const Tensor& variable) override { calls_.push_back(variable.grad().defined()); }
  std::vector<bool>& calls_;
};

TEST(GradientRelease, LeavesHooksAsTheyWere) {
  Chain chain(2, {.release_gradients = true});
  std::vector<bool> calls;
  torch::autograd::impl::set_post_acc_grad_hooks(chain.weights[1],
                                                 std::make_unique<Counter>(calls));
  release_gradients(*chain.optimizer, [&] { chain.loss(0).backward(); });
  EXPECT_THAT(calls, ElementsAre(true));
  EXPECT_EQ(torch::autograd::impl::post_acc_grad_hooks(chain.weights[0]), nullptr);
  chain.loss(1).backward();
  EXPECT_THAT(calls, ElementsAre(true, true));
  EXPECT_TRUE(chain.weights[0].grad().defined());
}

TEST(GradientRelease, RefusesWhatItCannotDo) {
  Chain chain(2, {.release_gradients = true}), keeping;
  EXPECT_THAT(message_of<c10::Error>([&] {
                release_gradients(*chain.optimizer, [&] {
                  chain.loss(0).backward();
                  chain.loss(1).backward();
                });
              }),
              HasSubstr("the gradient of 'w1' came twice"));
  EXPECT_EQ(torch::autograd::impl::post_acc_grad_hooks(chain.weights[0]), nullptr);
  EXPECT_THAT(message_of<c10::Error>([&] { measure_gradients(*keeping.optimizer, [] {}); }),
              HasSubstr("release_gradients"));
  EXPECT_THAT(message_of<c10::Error>(
                  [&] { release_gradients(*chain.optimizer, [] {}, {.previous_norm = NAN}); }),
              HasSubstr("previous_norm >= 0"));
}

TEST(GradientRelease, HoldsFewGradientsAtATime) {
  constexpr std::int64_t kLayers = 24;
  constexpr std::int64_t kMatrix = kWidth * kWidth * 4;
  for (const bool recompute : {false, true}) {
    test::TensorMemory memory;
    Chain chain(kLayers, {.release_gradients = true});
    const auto step = [&](bool measures) {
      const Tensor loss = chain.loss(0, recompute);
      const std::int64_t live = memory.live();
      memory.reset_peak();
      if (measures)
        measure_gradients(*chain.optimizer, [&] { loss.backward(); });
      else
        release_gradients(*chain.optimizer, [&] { loss.backward(); });
      return memory.peak() - live;
    };
    // That of the tied weight waits; one is made while another is applied.
    EXPECT_LT(step(true), 5 * kMatrix);
    EXPECT_LT(step(false), 5 * kMatrix);
  }
}

}  // namespace
}  // namespace halftone::optimizer_in_backward_test
