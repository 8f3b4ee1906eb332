// SPDX-License-Identifier: Apache-2.0
// Forecasts a series with an LSTM, from measurements and the time of day.
#include <limits>

#include "settings.h"

namespace {

namespace F = torch::nn::functional;
using torch::Tensor;

struct Forecaster : torch::nn::Module {
  Forecaster() {
    lstm = register_module(
        "lstm", torch::nn::LSTM(
                    torch::nn::LSTMOptions(2, 24).num_layers(2).batch_first(true).dropout(0.1)));
    head = register_module("head", torch::nn::Linear(24, 1));
  }
  torch::nn::LSTM lstm{nullptr};
  torch::nn::Linear head{nullptr};
};

/// How far the states move: a distance, whose slope at 0 is infinite without an epsilon.
Tensor movement(const Tensor& states, double epsilon) {
  return ((states - states.detach()).square().sum(-1) + epsilon).sqrt().mean();
}

}  // namespace

int main(int argc, char** argv) {
  const Settings set = settings(argc, argv);
  Forecaster model;
  Training training(model.parameters(), set.precision, 3e-3);
  const auto dtype = set.precision == "fp16" ? torch::kHalf : torch::kFloat;
  Tensor worst = torch::full({}, -std::numeric_limits<float>::infinity());
  for (int step = 0; step < set.steps; ++step) {
    if (set.fault == "nan_weight" && step == 2) {
      const torch::NoGradGuard no_grad;
      model.head->weight.fill_(std::numeric_limits<double>::quiet_NaN());
    }
    const Tensor seconds =
        (torch::randint(0, 86400, {8, 1}) + 60 * torch::arange(41)).to(torch::kFloat).fmod(86400);
    const Tensor series = torch::sin(seconds / 3600) + 0.1 * torch::randn_like(seconds);
    const Tensor time = set.fault == "large_feature" ? seconds : seconds / 86400;
    const Tensor inputs = torch::stack({series.to(dtype), time.to(dtype)}, -1).slice(1, 0, 40);
    const Tensor states =
        std::get<0>(model.lstm(inputs.to(torch::kFloat)));  // not every CPU has an fp16 LSTM
    Tensor loss;
    {
      const Autocast autocast(set.precision);
      const Tensor forecast = model.head(states).squeeze(-1).to(torch::kFloat);
      loss = F::smooth_l1_loss(forecast, series.slice(1, 1)) +
             0.1 * movement(states, set.fault == "root_of_zero" ? 0.0 : 1e-6);
      if (set.fault == "sum_overflow")
        loss = loss + 1e-6 * (states.to(torch::kHalf) * 100).square().sum().to(torch::kFloat);
    }
    training.update(loss);
    worst = torch::maximum(worst, loss.detach());
    report(step, loss);
  }
  std::printf("worst %.6f\n", worst.item<double>());
  return 0;
}
