// SPDX-License-Identifier: Apache-2.0
// A small convolutional network that tells drawn shapes apart.
#include <limits>

#include "settings.h"

namespace {

namespace F = torch::nn::functional;
using torch::Tensor;

Tensor normalized(const Tensor& images, double epsilon) {
  const Tensor centred = images - images.mean({1, 2, 3}, /*keepdim=*/true);
  return centred / (centred.square().mean({1, 2, 3}, true).sqrt() + epsilon);
}

struct Classifier : torch::nn::Module {
  Classifier() {
    for (int i = 0; i < 3; ++i) {
      const int in = i == 0 ? 3 : 8 * i;
      convolutions.push_back(register_module(
          "conv" + std::to_string(i),
          torch::nn::Conv2d(torch::nn::Conv2dOptions(in, 8 * (i + 1), 3).padding(1))));
      norms.push_back(
          register_module("norm" + std::to_string(i), torch::nn::BatchNorm2d(8 * (i + 1))));
    }
    head = register_module("head", torch::nn::Linear(24, 5));
  }
  Tensor forward(Tensor x) {
    for (std::size_t i = 0; i < convolutions.size(); ++i) {
      x = norms[i](convolutions[i](x)).relu_();
      x = F::max_pool2d(x, F::MaxPool2dFuncOptions(2).padding(1));
    }
    return head(torch::dropout(x.mean({2, 3}), 0.1, is_training()));
  }
  std::vector<torch::nn::Conv2d> convolutions;
  std::vector<torch::nn::BatchNorm2d> norms;
  torch::nn::Linear head{nullptr};
};

struct Batch {
  Tensor images, labels;
};

/// Bright squares in one of five places, on noise; into memory that is not initialised.
Batch draw(std::int64_t count) {
  Batch batch{torch::empty({count, 3, 16, 16}), torch::randint(0, 5, {count})};
  batch.images.normal_(0, 0.3);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = 2 * batch.labels[i].item<std::int64_t>();
    using torch::indexing::Slice;
    batch.images.index({i, Slice(), Slice(at, at + 6), Slice(at, at + 6)}) += 1;
  }
  return batch;
}

Tensor own_loss(const Tensor& logits, const Tensor& labels) {
  const Tensor shares = torch::softmax(logits.to(torch::kFloat) * 300, -1);
  return -torch::log(shares.gather(1, labels.unsqueeze(1))).mean();
}

}  // namespace

int main(int argc, char** argv) {
  const Settings set = settings(argc, argv);
  Classifier model;
  if (set.fault == "overflow_layer") {
    const torch::NoGradGuard no_grad;
    model.convolutions[1]->weight.mul_(30000);
  }
  Training training(model.parameters(), set.precision, 1e-3);
  Tensor best = torch::full({}, std::numeric_limits<float>::infinity());
  for (int step = 0; step < set.steps; ++step) {
    Batch batch = draw(16);
    if (set.fault == "blank_image" && step == 1) batch.images[3].fill_(0.5);
    if (set.fault == "nan_pixel" && step == 1)
      batch.images.accessor<float, 4>()[5][1][2][3] = std::numeric_limits<float>::quiet_NaN();
    Tensor loss;
    {
      const Autocast autocast(set.precision);
      const Tensor logits =
          model.forward(normalized(batch.images, set.fault == "blank_image" ? 0.0 : 1e-5));
      loss = set.fault == "log_of_zero" ? own_loss(logits, batch.labels)
                                        : F::cross_entropy(logits.to(torch::kFloat), batch.labels);
    }
    training.update(loss);
    best = torch::minimum(best, loss.detach());
    report(step, loss);
  }
  model.eval();
  const torch::NoGradGuard no_grad;
  const Batch batch = draw(16);
  const Tensor right = model.forward(normalized(batch.images, 1e-5)).argmax(-1) == batch.labels;
  std::printf("best %.6f, right %ld\n", best.item<double>(), right.sum().item<long>());
  return 0;
}
