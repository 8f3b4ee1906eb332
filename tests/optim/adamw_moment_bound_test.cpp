// SPDX-License-Identifier: Apache-2.0
// 8-bit moments make no update that is larger than the largest that fp32 moments can make.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "halftone/kernels/optimizer/moments.h"
#include "halftone/optim/adamw.h"

namespace halftone::adamw_moment_bound_test {
namespace {

constexpr double kRoundingErrors = 1 + 1e-5;

using Gradients = std::function<torch::Tensor(int step)>;

/// The largest |exp_avg| / root(exp_avg_sq) after t steps, by its definition as a sum.
double largest_ratio(int t, double beta1, double beta2) {
  double sum = 0;
  for (int k = 0; k < t; ++k) sum += std::pow(beta1, 2 * k) / std::pow(beta2, k);
  return (1 - beta1) / std::sqrt(1 - beta2) * std::sqrt(sum);
}

/// The same of the update that follows from them, for a learning rate of 1.
double largest_update(int t, double beta1, double beta2) {
  return largest_ratio(t, beta1, beta2) * std::sqrt(1 - std::pow(beta2, t)) /
         (1 - std::pow(beta1, t));
}

/// Magnitudes from 1e-8 to 1e8 that drift apart in a block, spikes and dead elements.
Gradients wild(std::uint64_t seed) {
  torch::manual_seed(seed);
  const torch::Tensor scale = torch::pow(10.0, torch::rand({64, 64}) * 16 - 8);
  return [scale](int /*step*/) {
    if (torch::rand({}).item<double>() < 0.1)
      scale.mul_(torch::pow(10.0, torch::rand({64, 64}) * 4 - 2)).clamp_(1e-12, 1e12);
    const torch::Tensor alive = torch::rand({64, 64}).gt(0.2);
    const torch::Tensor spike = torch::rand({64, 64}).gt(0.999) * 1e6 + 1;
    return torch::randn({64, 64}) * scale * alive * spike;
  };
}

/// Runs of one sign that grow by a factor of their own: the ratio's worst for fp32 are among them.
Gradients growing(std::uint64_t seed) {
  torch::manual_seed(seed);
  const torch::Tensor factor = 1 + torch::rand({64, 64});
  const torch::Tensor start = torch::pow(10.0, torch::rand({64, 64}) * 6 - 9);
  return [=](int step) { return start * factor.pow(step % 30); };
}

/// A spike, small gradients beside it, then none.
Gradients spike_then_silence(double spike) {
  torch::manual_seed(1);
  return [spike](int step) {
    torch::Tensor g = step <= 50 ? torch::randn({64, 64}) * 1e-3 : torch::zeros({64, 64});
    if (step == 1) g[0][0] = spike;
    return g;
  };
}

/// The largest update of each step, for a learning rate of 1.
std::vector<double> updates(const Gradients& gradients, AdamWOptions options, int steps) {
  torch::Tensor p = torch::zeros({64, 64}, torch::requires_grad());
  options.lr = 1.0;
  options.weight_decay = 0.0;
  AdamW optimizer({p}, options);
  std::vector<double> largest;
  for (int step = 1; step <= steps; ++step) {
    optimizer.zero_grad();
    p.mutable_grad().copy_(gradients(step));
    optimizer.step();
    const torch::NoGradGuard no_grad;
    largest.push_back(p.abs().max().item<double>());
    p.zero_();
  }
  return largest;
}

TEST(MomentBound, LeastRootIsTheSumOfItsDefinition) {
  for (const auto& [beta1, beta2] :
       {std::pair(0.9, 0.999), {0.9, 0.95}, {0.95, 0.9}, {0.0, 0.99}, {0.5, 0.25}, {0.9, 0.81}}) {
    for (const int t : {1, 2, 10, 500}) {
      const double least = least_root(torch::tensor(t), beta1, beta2).item<double>();
      EXPECT_NEAR(least * largest_ratio(t, beta1, beta2), 1.0, 1e-9) << beta1 << " " << beta2;
    }
  }
  EXPECT_EQ(least_root(torch::tensor(0), 0.9, 0.999).item<double>(), 0.0);
  EXPECT_EQ(least_root(torch::tensor(5), 0.9, 0.0).item<double>(), 0.0);
  EXPECT_EQ(least_root(torch::tensor(1000000), 0.9, 0.1).item<double>(), 0.0);
}

TEST(MomentBound, HoldsForAnyGradients) {
  for (const auto& [beta1, beta2] :
       {std::pair(0.9, 0.999), {0.9, 0.95}, {0.95, 0.9}, {0.0, 0.99}, {0.5, 0.25}}) {
    for (const Gradients& gradients :
         {wild(1), wild(2), growing(3), spike_then_silence(1e6), spike_then_silence(1e38)}) {
      const AdamWOptions options{.beta1 = beta1, .beta2 = beta2, .moments = MomentStorage::kInt8};
      const std::vector<double> moved = updates(gradients, options, 120);
      for (int t = 1; t <= 120; ++t)
        ASSERT_LE(moved[static_cast<std::size_t>(t - 1)],
                  largest_update(t, beta1, beta2) * kRoundingErrors)
            << "step " << t << ", betas " << beta1 << " and " << beta2;
    }
  }
}

// fp32 moments do reach it: it is theirs.
TEST(MomentBound, IsReachedByFp32) {
  const int last = 40;
  const auto worst = [](int step) {
    return torch::full({64, 64}, std::pow(0.9 / 0.999, last - step));
  };
  const double moved = updates(worst, {.eps = 0.0}, last).back();
  EXPECT_NEAR(moved / largest_update(last, 0.9, 0.999), 1.0, 1e-4);
}

torch::Tensor trained(MomentStorage moments, double spike) {
  torch::Tensor p = torch::zeros({64, 64}, torch::requires_grad());
  AdamW optimizer({p}, {.lr = 1e-3, .weight_decay = 0.0, .moments = moments});
  const Gradients gradients = spike_then_silence(spike);
  for (int step = 1; step <= 200; ++step) {
    optimizer.zero_grad();
    p.mutable_grad().copy_(gradients(step));
    optimizer.step();
  }
  return p.detach();
}

// 1e25: finite, but its square is not in fp32. fp32 moments then leave that weight alone.
TEST(MomentBound, ASpikeSlowsItsBlockDownAndLeavesTheOthersAlone) {
  for (const double spike : {1e2, 1e6, 1e12, 1e25}) {
    const torch::Tensor right = trained(MomentStorage::kFloat32, spike);
    const torch::Tensor ours = trained(MomentStorage::kInt8, spike);
    EXPECT_LE(ours.abs().max().item<double>(), 1.25 * right.abs().max().item<double>()) << spike;
    const torch::Tensor error = (ours - right).slice(0, 4).abs().max();
    EXPECT_LE(error.item<double>(), 0.2 * right.slice(0, 4).abs().max().item<double>()) << spike;
  }
}

// A state with a root of 0 under an exp_avg, as rounding to nearest used to leave it.
TEST(MomentBound, HoldsForStatesThatBreakIt) {
  torch::Tensor p = torch::zeros({64, 64}, torch::requires_grad());
  AdamWOptions options{.lr = 1.0, .weight_decay = 0.0, .moments = MomentStorage::kInt8};
  AdamW source({p}, options);
  p.mutable_grad().fill_(1.0);
  source.step();
  StateDict state = source.state_dict();
  for (auto& [name, tensor] : state.tensors) tensor = tensor.clone();
  state.tensors.at("group 0, parameter 0.exp_avg_sq").slice(0, 1, 64).zero_();
  for (const auto moments :
       {MomentStorage::kInt8, MomentStorage::kFloat32, MomentStorage::kBFloat16}) {
    torch::Tensor q = torch::zeros({64, 64}, torch::requires_grad());
    options.moments = moments;
    AdamW resumed({q}, options);
    resumed.load_state_dict(state);
    q.mutable_grad().zero_();  // a gradient, of zeros
    resumed.step();
    EXPECT_LE(q.abs().max().item<double>(), largest_update(2, 0.9, 0.999) * 1.01);
  }
}

}  // namespace
}  // namespace halftone::adamw_moment_bound_test
