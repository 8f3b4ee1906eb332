// SPDX-License-Identifier: Apache-2.0
// Method 1: mixed precision in a training loop of your own. Plain LibTorch layers, optimizer and
// loss; what halftone adds is the region of autocast around the forward pass and the scaler around
// the backward pass.
//
//   mlp_autocast_scaler [--precision 32-true|16-mixed|bf16-mixed] [--epochs N] [--seed N]
#include <halftone/autocast/autocast.h>
#include <halftone/core/error.h>
#include <halftone/core/message.h>
#include <halftone/data/datasets.h>
#include <halftone/data/fashion_mnist.h>
#include <halftone/data/tensor_loader.h>
#include <halftone/precision/grad_scaler.h>
#include <halftone/precision/policy.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adam.h>
#include <torch/optim/schedulers/step_lr.h>
#include <torch/utils.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>

namespace {

struct Options {
  std::string precision = "16-mixed";
  std::int64_t epochs = 15;
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

double accuracy(torch::nn::Sequential& model, const halftone::FashionMnist& data,
                const halftone::PrecisionPolicy& policy) {
  const torch::NoGradGuard no_grad;
  const halftone::Autocast autocast(torch::kCPU, policy.autocast_dtype(), policy.autocast());
  const torch::Tensor predicted = model->forward(data.test_images).argmax(1);
  return predicted.eq(data.test_labels).to(torch::kDouble).mean().item<double>();
}

void train(const Options& options) {
  // What the name means: here, whether to cast, to which dtype, and whether that dtype needs a
  // loss scale. bf16 has the range of fp32 and needs none.
  const halftone::PrecisionPolicy policy = halftone::parse_precision(options.precision);
  const halftone::FashionMnist data =
      halftone::read_fashion_mnist(halftone::fetch_dataset("dataset-fashion-mnist").folder);
  halftone::TensorLoader loader({data.train_images, data.train_labels},
                                {.batch_size = 64, .seed = options.seed});

  torch::manual_seed(options.seed);
  torch::nn::Sequential model(torch::nn::Flatten(), torch::nn::Linear(784, 128), torch::nn::ReLU(),
                              torch::nn::Linear(128, 10));
  torch::optim::Adam optimizer(model->parameters(), 1e-3);
  torch::optim::StepLR schedule(optimizer, /*step_size=*/6, /*gamma=*/0.2);
  // Disabled, every call below still works and does what a loop without a scaler does.
  halftone::GradScaler scaler({.enabled = policy.loss_scaling});
  scaler.name_parameters(*model);

  for (std::int64_t epoch = 1; epoch <= options.epochs; ++epoch) {
    double sum = 0;
    for (const auto& batch : loader) {
      optimizer.zero_grad();
      torch::Tensor loss;
      {
        // Ends before backward(): each gradient takes the dtype of its own forward operation.
        const halftone::Autocast autocast(torch::kCPU, policy.autocast_dtype(), policy.autocast());
        loss = torch::nn::functional::cross_entropy(model->forward(batch.data), batch.target);
      }
      scaler.scale(loss).backward();
      // Divides the gradients by the scale, and leaves the step out when one of them overflowed.
      const halftone::StepResult result = scaler.step(optimizer);
      if (!result.stepped) std::printf("overflow in %s\n", result.overflow.front().c_str());
      scaler.update();
      sum += loss.item<double>();
    }
    schedule.step();
    std::printf("epoch %ld  loss %.4f  test accuracy %.2f %%\n", epoch,
                sum / static_cast<double>(loader.batches_per_epoch()),
                100 * accuracy(model, data, policy));
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
