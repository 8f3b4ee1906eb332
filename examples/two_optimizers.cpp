// SPDX-License-Identifier: Apache-2.0
// Two models, two optimizers and two losses that share one scaler: an encoder with a classifier
// learns from labels, and a decoder learns to paint the image again from what the encoder keeps.
// The second loss reaches the encoder too.
//
//   two_optimizers [--precision 32-true|16-mixed|bf16-mixed] [--epochs N] [--seed N]
#include <halftone/autocast/autocast.h>
#include <halftone/core/error.h>
#include <halftone/core/message.h>
#include <halftone/data/datasets.h>
#include <halftone/data/fashion_mnist.h>
#include <halftone/data/tensor_loader.h>
#include <halftone/nn/linear.h>
#include <halftone/precision/grad_scaler.h>
#include <halftone/precision/policy.h>
#include <torch/nn/functional/loss.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>
#include <torch/utils.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>

namespace {

namespace F = torch::nn::functional;

struct Options {
  std::string precision = "16-mixed";
  std::int64_t epochs = 3;
  std::uint64_t seed = 1;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (flag == "--precision")
      options.precision = value;
    else if (flag == "--epochs")
      options.epochs = std::stoll(value);
    else if (flag == "--seed")
      options.seed = std::stoull(value);
    else
      throw halftone::UserError("expected --precision, --epochs or --seed, got " + flag);
  }
  return options;
}

void train(const Options& options) {
  const halftone::PrecisionPolicy policy = halftone::parse_precision(options.precision);
  const halftone::FashionMnist data =
      halftone::read_fashion_mnist(halftone::fetch_dataset("dataset-fashion-mnist").folder);
  halftone::TensorLoader loader({data.train_images.flatten(1), data.train_labels},
                                {.batch_size = 64, .seed = options.seed});

  torch::manual_seed(options.seed);
  // As torch::nn::Linear without a bias, but with the matmuls that are fast in 16 bits on
  // this CPU.
  halftone::Linear encoder(784, 128);
  halftone::Linear classifier(128, 10);
  halftone::Linear decoder(128, 784);
  torch::optim::Adam classifier_optimizer({encoder->parameters(), classifier->parameters()}, 1e-3);
  torch::optim::SGD decoder_optimizer(decoder->parameters(),
                                      torch::optim::SGDOptions(1.0).momentum(0.9));
  // One scaler for all losses: their gradients meet in the encoder, so they need one scale.
  halftone::GradScaler scaler({.enabled = policy.loss_scaling});

  for (std::int64_t epoch = 1; epoch <= options.epochs; ++epoch) {
    double sums[2] = {0, 0};
    for (const auto& batch : loader) {
      classifier_optimizer.zero_grad();
      decoder_optimizer.zero_grad();
      torch::Tensor label_loss;
      torch::Tensor image_loss;
      {
        const halftone::Autocast autocast(torch::kCPU, policy.autocast_dtype(), policy.autocast());
        const torch::Tensor kept = encoder->forward(batch.data).relu();
        label_loss = F::cross_entropy(classifier->forward(kept), batch.target);
        image_loss = F::mse_loss(decoder->forward(kept).sigmoid(), batch.data);
      }
      // Both went through the encoder, so the first backward pass must leave its graph standing.
      scaler.scale(label_loss).backward({}, /*retain_graph=*/true);
      scaler.scale(image_loss).backward();

      // Each optimizer decides for itself: an overflow in the decoder does not cost the classifier
      // its step.
      scaler.step(classifier_optimizer);
      scaler.step(decoder_optimizer);
      scaler.update();  // once per iteration, after the last step
      sums[0] += label_loss.item<double>();
      sums[1] += image_loss.item<double>();
    }
    const auto batches = static_cast<double>(loader.batches_per_epoch());
    std::printf("epoch %ld  label loss %.4f  image loss %.4f\n", epoch, sums[0] / batches,
                sums[1] / batches);
  }
}

}  // namespace

int main(int argc, char** argv) {
  torch::set_num_threads(1);  // a model this small only waits for a second thread
  try {
    train(parse(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", halftone::error_text(error).c_str());
    return 1;
  }
  return 0;
}
