// SPDX-License-Identifier: Apache-2.0
// What another program needs to use a trained model: no Trainer, no optimizer, no training data.
//
//   vision_transformer --out runs/vision_transformer
//   serve [runs/vision_transformer/best]
#include <halftone/core/error.h>
#include <halftone/core/message.h>
#include <halftone/data/datasets.h>
#include <halftone/data/fashion_mnist.h>
#include <halftone/train/saved_model.h>
#include <torch/utils.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>

#include "vision_transformer_module.h"

namespace {

constexpr const char* kNames[kLabels] = {"T-shirt", "trouser", "pullover", "dress", "coat",
                                         "sandal",  "shirt",   "sneaker",  "bag",   "ankle boot"};

void serve(const std::string& run) {
  // A run's folder gives its newest checkpoint, RUN/best the best one.
  const halftone::SavedModel saved = halftone::load_saved_model(run);
  const auto number = [&](const char* name) { return saved.hyper_parameter<std::int64_t>(name); };
  VisionTransformer model(number("width"), number("depth"), number("heads"));
  halftone::load_weights(model, saved);
  model.eval();
  const torch::NoGradGuard no_grad;

  const halftone::FashionMnist data =
      halftone::read_fashion_mnist(halftone::fetch_dataset("dataset-fashion-mnist").folder);
  std::printf("step %ld, trained in %s, used in fp32\n", saved.step, saved.precision.c_str());
  const torch::Tensor chances = model.forward(data.test_images.slice(0, 0, 1000)).softmax(1);
  const torch::Tensor found = chances.argmax(1);
  for (std::int64_t i = 0; i < 8; ++i)
    std::printf("%-10s is taken for %-10s (%.0f %%)\n",
                kNames[data.test_labels[i].item<std::int64_t>()],
                kNames[found[i].item<std::int64_t>()], 100 * chances[i].max().item<double>());
  const torch::Tensor right = found.eq(data.test_labels.slice(0, 0, 1000));
  std::printf("accuracy of 1000 %.2f %%\n", 100 * right.to(torch::kDouble).mean().item<double>());
}

}  // namespace

int main(int argc, char** argv) {
  torch::set_num_threads(1);
  try {
    serve(argc > 1 ? argv[1] : "runs/vision_transformer/best");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", halftone::error_text(error).c_str());
    return 1;
  }
  return 0;
}
