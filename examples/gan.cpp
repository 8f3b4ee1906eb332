// SPDX-License-Identifier: Apache-2.0
// A generative adversarial network on Fashion-MNIST: two networks with losses of their own, so the
// module steps its two optimizers itself (manual optimization), in any precision.
//
//   gan [flags of run_options.h]
//
// Paints RUN/samples.pgm, 64 pictures of clothes that nobody has ever worn.
#include <halftone/core/error.h>
#include <halftone/data/datasets.h>
#include <halftone/data/fashion_mnist.h>
#include <halftone/data/tensor_loader.h>
#include <halftone/nn/linear.h>
#include <halftone/nn/rms_norm.h>
#include <halftone/optim/adamw.h>
#include <halftone/train/trainer.h>
#include <halftone/train/training_module.h>
#include <halftone/train/weight_averaging.h>
#include <torch/nn/functional/activation.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "run_options.h"

namespace {

namespace F = torch::nn::functional;
using torch::Tensor;

constexpr std::int64_t kNoise = 64;
constexpr std::int64_t kPixels = 28 * 28;
constexpr std::int64_t kWidth = 256;

/// halftone::Linear has no bias, which takes two lines to add.
class AffineImpl : public torch::nn::Module {
 public:
  AffineImpl(std::int64_t in, std::int64_t out)
      : linear_(register_module("linear", halftone::Linear(in, out))),
        bias_(register_parameter("bias", torch::zeros(out))) {}

  Tensor forward(const Tensor& x) { return linear_(x) + bias_; }

 private:
  halftone::Linear linear_;
  Tensor bias_;
};
TORCH_MODULE(Affine);

/// Two hidden layers: the shape of both players.
class PlayerImpl : public torch::nn::Module {
 public:
  PlayerImpl(std::int64_t in, std::int64_t out)
      : first_(register_module("first", Affine(in, kWidth))),
        first_norm_(register_module("first_norm", halftone::RmsNorm(kWidth, 1e-6))),
        second_(register_module("second", Affine(kWidth, kWidth))),
        second_norm_(register_module("second_norm", halftone::RmsNorm(kWidth, 1e-6))),
        last_(register_module("last", Affine(kWidth, out))) {}

  // Without the norms, the generator settles for a few kinds of clothes.
  Tensor forward(const Tensor& x) {
    const Tensor first = torch::leaky_relu(first_norm_(first_(x)), 0.2);
    return last_(torch::leaky_relu(second_norm_(second_(first)), 0.2));
  }

 private:
  Affine first_;
  halftone::RmsNorm first_norm_;
  Affine second_;
  halftone::RmsNorm second_norm_;
  Affine last_;
};
TORCH_MODULE(Player);

class Gan : public halftone::TrainingModule<> {
 public:
  bool automatic_optimization() const override { return false; }

  std::vector<halftone::OptimizerSetup> configure_optimizers(
      const halftone::OptimizerContext& context) override {
    // With context.adamw(), what is rounded to bf16 (bf16-true) is rounded at random, so that small
    // updates are not lost.
    const halftone::AdamWOptions options =
        context.adamw({.lr = 5e-4, .beta1 = 0.5, .weight_decay = 0.0});
    return {adam(*critic_, options), adam(*generator_, options)};
  }

  // The non-saturating loss (Goodfellow et al. 2014): softplus(-score) is -log(sigmoid(score)).
  Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    auto& critic_optimizer = optimizer(0);
    auto& generator_optimizer = optimizer(1);
    const Tensor real = pixels(batch);
    Tensor critic_loss;
    {
      // The generator requires no gradient in this scope, so its pass leaves no graph behind.
      const auto only_the_critic = critic_optimizer.toggled();
      const Tensor fake = paint(noise_like(real));
      critic_loss = F::softplus(-critic_(real)).mean() + F::softplus(critic_(fake)).mean();
      critic_optimizer.zero_grad();
      manual_backward(critic_loss);           // scales the loss, where the precision needs that
      critic_optimizer.step({.value = 1.0});  // unscales, clips by the norm, and steps
    }
    // Gradients go through the critic here, but none is computed for its weights.
    const auto only_the_generator = generator_optimizer.toggled();
    const Tensor generator_loss = F::softplus(-critic_(paint(noise_like(real)))).mean();
    generator_optimizer.zero_grad();
    manual_backward(generator_loss);
    generator_optimizer.step({.value = 1.0});

    log("generator_loss", generator_loss);
    return critic_loss;  // only logged, as the step's loss
  }

  // 1: the critic tells every picture; 0.5: it guesses, because the generator has caught up.
  void validation_step(const Batch& batch, std::int64_t /*index*/) override {
    const Tensor real = pixels(batch);
    const Tensor fake = paint(noise_like(real));
    const Tensor told = torch::cat({critic_(real) > 0, critic_(fake) < 0});
    log("val_critic_accuracy", told.to(torch::kDouble).mean());
    // How far the mean of what is painted is from the mean picture: falls as the generator learns.
    const Tensor gap = fake.to(torch::kFloat).mean(0) - real.to(torch::kFloat).mean(0);
    log("val_gap", gap.square().mean().sqrt());
  }

  // The data of prediction is noise, a row for each picture.
  Tensor predict_step(const Batch& noise, std::int64_t /*index*/) override {
    return paint(noise.data);
  }

 private:
  static std::shared_ptr<halftone::AdamW> adam(const torch::nn::Module& player,
                                               const halftone::AdamWOptions& options) {
    return std::make_shared<halftone::AdamW>(player.named_parameters().pairs(), options);
  }

  static Tensor pixels(const Batch& batch) { return batch.data.flatten(1) * 2 - 1; }
  // From LibTorch's generator, whose state is in each checkpoint: a resumed run draws what the
  // other would have drawn.
  static Tensor noise_like(const Tensor& real) {
    return torch::randn({real.size(0), kNoise}, real.options());
  }
  Tensor paint(const Tensor& noise) { return generator_(noise).tanh(); }

  Player generator_ = register_module("generator", Player(kNoise, kPixels));
  Player critic_ = register_module("critic", Player(kPixels, 1));
};

/// 64 pictures, (64, 784) in -1..1, as 8 by 8 in a portable graymap.
void write_grid(const Tensor& pictures, const std::string& path) {
  const Tensor grid = pictures.to(torch::kFloat).view({8, 8, 28, 28}).transpose(1, 2);
  const Tensor bytes = ((grid + 1) * 127.5).round().to(torch::kUInt8).contiguous();
  std::ofstream file(path, std::ios::binary);
  file << "P5\n224 224\n255\n";
  file.write(static_cast<const char*>(bytes.const_data_ptr()),
             static_cast<std::streamsize>(bytes.nbytes()));
  if (!file.flush()) throw halftone::SystemError("can't write " + path);
}

void train(const RunOptions& options) {
  const halftone::FashionMnist data =
      halftone::read_fashion_mnist(halftone::fetch_dataset("dataset-fashion-mnist").folder);
  halftone::TensorLoader loader(
      {data.train_images.slice(0, 0, options.limit), data.train_labels.slice(0, 0, options.limit)},
      {.batch_size = 64, .seed = 1});
  halftone::TensorLoader validation({data.test_images, data.test_labels},
                                    {.batch_size = 500, .shuffle = false});
  torch::manual_seed(1);
  Gan gan;
  // The average of the weights over the last steps paints better than the last weights do.
  // Validation, checkpoints and, in the end, the module have it; training goes on with its own.
  halftone::Trainer trainer(
      {.max_epochs = options.epochs,
       .max_steps = options.steps,
       .precision = options.precision,
       .callbacks = {std::make_shared<halftone::Ema>(halftone::EmaOptions{.decay = 0.99}),
                     std::make_shared<PrintValidation>(),
                     std::make_shared<StopAt>(options.stop_at)},
       .default_root_dir = options.out,
       .limit_val_batches = 4});
  trainer.fit(gan, loader, validation, {.resume = options.resume});

  const Tensor noise = torch::randn({64, kNoise}, halftone::SampleSeed{1}.generator());
  halftone::TensorLoader wishes({noise, torch::zeros(64)}, {.batch_size = 64, .shuffle = false});
  write_grid(trainer.predict(gan, wishes).front(), options.out + "/samples.pgm");
}

}  // namespace

int main(int argc, char** argv) {
  return run_program(
      [&] { train(parse_run_options(argc, argv, {.out = "runs/gan", .epochs = 10})); });
}
