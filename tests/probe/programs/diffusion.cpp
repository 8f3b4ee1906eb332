// SPDX-License-Identifier: Apache-2.0
// Learns to take the noise off two-dimensional rings, and draws some points in the end.
#include <cmath>

#include "settings.h"

namespace {

using torch::Tensor;
constexpr std::int64_t kSteps = 50, kWidth = 48;
constexpr double kPi = 3.14159265358979323846;

Tensor normalized(const Tensor& x, bool in_half) {
  Tensor y = x.to(in_half ? torch::kHalf : torch::kFloat);
  y = y - y.sum(-1, true) / kWidth;
  y = y * torch::rsqrt(y.pow(2).mean(-1, true) + 1e-6);
  return y.to(x.dtype());
}

/// The standard deviation over the batch, shown to the network as one more feature.
Tensor spread(const Tensor& x, bool by_squares) {
  if (!by_squares) return (x - x.mean(0)).square().mean(0).sqrt();
  const Tensor narrow = x.to(torch::kHalf) + 50;
  return (narrow.square().mean(0) - narrow.mean(0).square()).sqrt().to(x.dtype());
}

struct Denoiser : torch::nn::Module {
  explicit Denoiser(std::string its_fault) : fault(std::move(its_fault)) {
    inner = register_module("inner", torch::nn::Linear(2 + 2 + 8, kWidth));
    first = register_module("first", torch::nn::Linear(kWidth, kWidth));
    second = register_module("second", torch::nn::Linear(kWidth, kWidth));
    out = register_module("out", torch::nn::Linear(kWidth, 2));
  }
  Tensor forward(const Tensor& points, const Tensor& time) {
    const Tensor angles = time.unsqueeze(1) * torch::tensor({1.0, 3.0, 9.0, 27.0}) / kSteps;
    const Tensor width = spread(points, fault == "variance_by_squares").expand_as(points);
    Tensor x = inner(torch::cat({points, width, angles.sin(), angles.cos()}, -1).to(torch::kFloat));
    const bool overflows = fault == "norm_overflow";
    if (overflows) x = x * 100 + 3000;
    x = x + torch::silu(first(normalized(x, overflows)));
    x = x + torch::silu(second(normalized(x, overflows)));
    return out(x);
  }
  std::string fault;
  torch::nn::Linear inner{nullptr}, first{nullptr}, second{nullptr}, out{nullptr};
};

/// Shares of signal left, from just below 1 to almost none; `ends` adds the ends, 1 and 0.
Tensor schedule(bool ends) {
  const Tensor inside = torch::cos(torch::linspace(0.05, 0.98, kSteps) * kPi / 2).square();
  if (!ends) return inside;
  return torch::cat({torch::ones(1), inside.slice(0, 1, kSteps - 1), torch::zeros(1)});
}

Tensor draw(Denoiser& model, const Tensor& signals, std::int64_t count) {
  const torch::NoGradGuard no_grad;
  Tensor points = torch::randn({count, 2});
  for (std::int64_t step = kSteps - 1; step >= 0; --step) {
    const Tensor signal = signals[step], before = signals[std::max<std::int64_t>(step - 1, 0)];
    const Tensor noise = model.forward(points, torch::full({count}, static_cast<double>(step)));
    const Tensor clean = ((points - (1 - signal).sqrt() * noise) / signal.sqrt()).clamp_(-2, 2);
    points = before.sqrt() * clean + (1 - before).sqrt() * torch::randn_like(points);
  }
  return points;
}

}  // namespace

int main(int argc, char** argv) {
  const Settings set = settings(argc, argv);
  Denoiser model(set.fault);
  const Tensor signals = schedule(set.fault == "last_step" || set.fault == "log_snr");
  Training training(model.parameters(), set.precision, 2e-3);
  for (int step = 0; step < set.steps; ++step) {
    const Tensor angle = torch::rand(64) * 2 * kPi;
    const Tensor points = torch::stack({angle.cos(), angle.sin()}, -1);
    Tensor time = torch::randint(1, kSteps - 1, {64});
    if (step == 1) {
      time[0] = set.fault == "log_snr" ? 5 : 0;
      time[1] = kSteps - 1;
    }
    const Tensor noise = torch::randn_like(points);
    const Tensor signal = signals.index({time}).unsqueeze(1);
    const Tensor noisy = signal.sqrt() * points + (1 - signal).sqrt() * noise;
    Tensor guess;
    {
      const Autocast autocast(set.precision);
      guess = model.forward(noisy, time.to(torch::kFloat)).to(torch::kFloat);
    }
    const Tensor error = (guess - noise).square().mean(-1);
    const Tensor left = signals.index({time});
    const Tensor weight = set.fault == "log_snr" ? torch::log(left / (1 - left + 1e-6)) + 20
                                                 : (1 - left).reciprocal();
    const Tensor loss = (weight * error).mean();
    training.update(loss);
    report(step, loss);
  }
  if (set.fault == "none")
    std::printf("drew points of size %.4f\n",
                draw(model, signals, 16).norm(2, -1).mean().item<double>());
  return 0;
}
