// SPDX-License-Identifier: Apache-2.0
// Method 2: method 1 with gradients added up over four micro-batches and clipped before each
// update, for a batch that does not fit into memory at once.
//
//   mlp_accumulation [--precision 32-true|16-mixed|bf16-mixed] [--epochs N] [--seed N]
#include <halftone/autocast/autocast.h>
#include <halftone/core/error.h>
#include <halftone/core/message.h>
#include <halftone/data/datasets.h>
#include <halftone/data/fashion_mnist.h>
#include <halftone/data/tensor_loader.h>
#include <halftone/optim/clip.h>
#include <halftone/precision/grad_scaler.h>
#include <halftone/precision/policy.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adam.h>
#include <torch/optim/schedulers/step_lr.h>
#include <torch/utils.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>

namespace {

constexpr std::int64_t kAccumulate = 4;
constexpr std::int64_t kBatchSize = 16;

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
  const halftone::PrecisionPolicy policy = halftone::parse_precision(options.precision);
  const halftone::FashionMnist data =
      halftone::read_fashion_mnist(halftone::fetch_dataset("dataset-fashion-mnist").folder);
  halftone::TensorLoader loader({data.train_images, data.train_labels},
                                {.batch_size = kBatchSize, .seed = options.seed});
  const std::int64_t batches = loader.batches_per_epoch();

  torch::manual_seed(options.seed);
  torch::nn::Sequential model(torch::nn::Flatten(), torch::nn::Linear(784, 128), torch::nn::ReLU(),
                              torch::nn::Linear(128, 10));
  torch::optim::Adam optimizer(model->parameters(), 1e-3);
  torch::optim::StepLR schedule(optimizer, /*step_size=*/6, /*gamma=*/0.2);
  halftone::GradScaler scaler({.enabled = policy.loss_scaling});

  for (std::int64_t epoch = 1; epoch <= options.epochs; ++epoch) {
    double sum = 0;
    std::int64_t index = 0;
    for (const auto& batch : loader) {
      // The last group of an epoch may have fewer micro-batches, and its last one fewer samples.
      const std::int64_t first = index / kAccumulate * kAccumulate;
      const std::int64_t group = std::min(kAccumulate, batches - first);
      const std::int64_t samples =
          std::min(group * kBatchSize, loader.samples() - first * kBatchSize);
      const double share = static_cast<double>(batch.data.size(0)) / static_cast<double>(samples);
      torch::Tensor loss;
      {
        const halftone::Autocast autocast(torch::kCPU, policy.autocast_dtype(), policy.autocast());
        loss = torch::nn::functional::cross_entropy(model->forward(batch.data), batch.target);
      }
      sum += loss.item<double>() * static_cast<double>(batch.data.size(0));
      scaler.scale(loss * share).backward();  // the mean over the group, added up in the gradients
      if (++index < first + group) continue;

      // Once per update, not per micro-batch: a scale that changed within a group would add
      // gradients of different scales. A threshold means something only without the scale.
      scaler.unscale_(optimizer);
      halftone::clip_grad_norm_(model->parameters(), 1.0);
      scaler.step(optimizer);  // knows that the gradients are unscaled already
      scaler.update();
      optimizer.zero_grad();
    }
    schedule.step();
    std::printf("epoch %ld  loss %.4f  test accuracy %.2f %%\n", epoch,
                sum / static_cast<double>(loader.samples()), 100 * accuracy(model, data, policy));
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
