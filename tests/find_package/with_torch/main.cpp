// SPDX-License-Identifier: Apache-2.0
// Trains a module and an optimizer of LibTorch's own with halftone's autocast and scaler.
#include <halftone/halftone.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <cstdio>

int main() {
  torch::nn::Linear model(4, 1);
  const torch::Tensor x = torch::randn({16, 4});
  const torch::Tensor target = x.sum(1, true);
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.1));
  halftone::GradScaler scaler({.init_scale = 256.0});
  float first = 0;
  float last = 0;
  for (int step = 0; step < 20; ++step) {
    optimizer.zero_grad();
    torch::Tensor loss;
    {
      const halftone::Autocast autocast(torch::kCPU, torch::kHalf);
      loss = (model->forward(x) - target).square().mean();
    }
    scaler.scale(loss).backward();
    scaler.step(optimizer);
    scaler.update();
    last = loss.item<float>();
    if (step == 0) first = last;
  }
  std::printf("with_torch: loss %g, then %g\n", first, last);
  return last < first / 2 ? 0 : 1;
}
