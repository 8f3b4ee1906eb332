// SPDX-License-Identifier: Apache-2.0
// One model on several processes: start it with
//   halftone launch --processes 2 -- build/examples/data_parallel
// or torchrun, srun, mpirun. Each process takes every second batch of 64; all of them step with the
// sums of the gradients. Alone, it trains as any other program.
#include <halftone/core/message.h>
#include <halftone/data/datasets.h>
#include <halftone/data/fashion_mnist.h>
#include <halftone/data/tensor_loader.h>
#include <halftone/train/trainer.h>
#include <halftone/train/training_module.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adam.h>

#include <cstdio>
#include <exception>
#include <memory>

struct Classifier : halftone::TrainingModule<> {
  torch::nn::Linear hidden = register_module("hidden", torch::nn::Linear(784, 128));
  torch::nn::Linear head = register_module("head", torch::nn::Linear(128, 10));

  torch::Tensor scores(const Batch& batch) { return head(hidden(batch.data.flatten(1)).relu()); }
  torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    return torch::nn::functional::cross_entropy(scores(batch), batch.target);
  }
  void validation_step(const Batch& batch, std::int64_t /*index*/) override {
    log("accuracy", scores(batch).argmax(1).eq(batch.target).to(torch::kDouble).mean());
  }
  std::vector<halftone::OptimizerSetup> configure_optimizers(
      const halftone::OptimizerContext& /*context*/) override {
    return {std::make_shared<torch::optim::Adam>(parameters(), 1e-3)};
  }
};

int main() try {
  const halftone::FashionMnist data =
      halftone::read_fashion_mnist(halftone::fetch_dataset("dataset-fashion-mnist").folder);
  halftone::Trainer trainer({.max_epochs = 1, .precision = "bf16-mixed"});
  Classifier module;
  halftone::TensorLoader train({data.train_images, data.train_labels}, {.batch_size = 64});
  halftone::TensorLoader test({data.test_images, data.test_labels}, {.batch_size = 500});
  trainer.fit(module, train);
  const double accuracy = trainer.validate(module, test).at("accuracy");
  const auto processes = trainer.processes() == nullptr ? 1 : trainer.processes()->size();
  if (trainer.is_global_zero())
    std::printf("accuracy %.1f %% after an epoch in %d processes\n", 100 * accuracy,
                static_cast<int>(processes));
} catch (const std::exception& error) {
  std::fprintf(stderr, "data_parallel: %s\n", halftone::error_text(error).c_str());
  return 1;
}
