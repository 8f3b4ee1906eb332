// SPDX-License-Identifier: Apache-2.0
// A vision transformer on Fashion-MNIST: augmentation that a resumed run repeats, warm-up and
// cosine, the best checkpoints by validation, and a test of the best one.
//
//   vision_transformer [flags of run_options.h]
#include <halftone/data/datasets.h>
#include <halftone/data/fashion_mnist.h>
#include <halftone/data/tensor_loader.h>
#include <halftone/train/model_checkpoint.h>
#include <halftone/train/trainer.h>
#include <torch/nn/functional/padding.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "run_options.h"
#include "vision_transformer_module.h"

namespace {

constexpr std::int64_t kShift = 2;  // pixels at most, in each direction
constexpr std::int64_t kValidation = 5000;

// Moves each picture a little. What is random comes from `seed` alone, which is a function of the
// loader's seed and the batch's position: neither a resumed run nor other threads change it.
torch::data::Example<> shifted(torch::data::Example<> batch, halftone::SampleSeed seed) {
  const torch::Tensor wide =
      torch::nn::functional::pad(batch.data, {{kShift, kShift, kShift, kShift}});
  for (std::int64_t i = 0; i < batch.data.size(0); ++i) {
    const std::uint64_t word = seed.word(static_cast<std::uint64_t>(i));
    const auto down = static_cast<std::int64_t>(word % (2 * kShift + 1));
    const auto right = static_cast<std::int64_t>((word >> 32U) % (2 * kShift + 1));
    batch.data[i].copy_(wide[i].narrow(1, down, 28).narrow(2, right, 28));
  }
  return batch;
}

void train(const RunOptions& options) {
  const halftone::FashionMnist data =
      halftone::read_fashion_mnist(halftone::fetch_dataset("dataset-fashion-mnist").folder);
  const std::int64_t rest = data.train_images.size(0) - kValidation;
  const std::int64_t count = std::min(options.limit, rest);
  halftone::TensorLoader loader(
      {data.train_images.narrow(0, 0, count), data.train_labels.narrow(0, 0, count)},
      {.batch_size = 128, .seed = 1, .transform = shifted, .num_workers = 1});
  const std::int64_t few = std::clamp<std::int64_t>(count / 4, 1, kValidation);
  halftone::TensorLoader validation(
      {data.train_images.narrow(0, rest, few), data.train_labels.narrow(0, rest, few)},
      {.batch_size = 500, .shuffle = false});
  halftone::TensorLoader test(
      {data.test_images.slice(0, 0, 2 * few), data.test_labels.slice(0, 0, 2 * few)},
      {.batch_size = 500, .shuffle = false});

  const std::int64_t steps =
      options.steps.value_or(options.epochs.value_or(1) * loader.batches_per_epoch());
  torch::manual_seed(1);
  VisionTransformer module(/*width=*/64, /*depth=*/3, /*heads=*/4, /*the_warmup=*/steps / 10);
  const auto best = std::make_shared<halftone::ModelCheckpoint>(halftone::ModelCheckpointOptions{
      .monitor = "val_accuracy", .mode = halftone::MonitorMode::kMax, .save_top_k = 2});
  halftone::Trainer trainer({.max_epochs = options.epochs,
                             .max_steps = options.steps,
                             .precision = options.precision,
                             .gradient_clip_val = 1.0,
                             .callbacks = {best, std::make_shared<PrintValidation>(),
                                           std::make_shared<StopAt>(options.stop_at)},
                             .default_root_dir = options.out});
  trainer.fit(module, loader, validation, {.resume = options.resume});
  if (!best->best()) return;  // stopped before the first validation

  // The weights of the best checkpoint, not the last ones, and in the precision of the training.
  const auto tested = trainer.test(module, test, {.ckpt_path = "best"});
  std::printf("best: step %ld, test accuracy %.2f %%\n", best->best()->step,
              100 * tested.at("test_accuracy"));
}

}  // namespace

int main(int argc, char** argv) {
  return run_program([&] {
    train(parse_run_options(argc, argv, {.out = "runs/vision_transformer", .epochs = 5}));
  });
}
