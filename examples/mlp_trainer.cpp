// SPDX-License-Identifier: Apache-2.0
// Method 3: the loop is the Trainer's. You say what the model, its loss and its optimizer are, and
// name a precision; autocast, scaler, accumulation, clipping and validation are options.
//
//   mlp_trainer [--precision 32-true|16-mixed|bf16-mixed] [--epochs N] [--seed N]
#include <halftone/core/error.h>
#include <halftone/core/message.h>
#include <halftone/data/datasets.h>
#include <halftone/data/fashion_mnist.h>
#include <halftone/data/tensor_loader.h>
#include <halftone/train/trainer.h>
#include <halftone/train/training_module.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adam.h>
#include <torch/utils.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <map>
#include <memory>
#include <string>
#include <vector>

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

class Classifier : public halftone::TrainingModule<> {
 public:
  Classifier() {
    hidden_ = register_module("hidden", torch::nn::Linear(784, 128));
    head_ = register_module("head", torch::nn::Linear(128, 10));
  }

  // Nothing here knows the precision: the Trainer calls it in a region of autocast.
  torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    return torch::nn::functional::cross_entropy(forward(batch.data), batch.target);
  }

  void validation_step(const Batch& batch, std::int64_t /*index*/) override {
    const torch::Tensor scores = forward(batch.data);
    log("loss", torch::nn::functional::cross_entropy(scores, batch.target));
    log("accuracy", scores.argmax(1).eq(batch.target).to(torch::kDouble).mean());
  }

  std::vector<halftone::OptimizerSetup> configure_optimizers(
      const halftone::OptimizerContext& /*context*/) override {
    // The rate falls from 1e-3 to a tenth of it over the whole run.
    return {{std::make_shared<torch::optim::Adam>(parameters(), 1e-3),
             halftone::LrScheduleOptions{.kind = halftone::Schedule::kCosine}}};
  }

 private:
  torch::Tensor forward(const torch::Tensor& images) {
    return head_(hidden_(images.flatten(1)).relu());
  }

  torch::nn::Linear hidden_{nullptr};
  torch::nn::Linear head_{nullptr};
};

struct Report : halftone::Callback {
  void on_validation_end(halftone::Trainer& /*trainer*/,
                         const std::map<std::string, double>& logged) override {
    std::printf("epoch %d  test loss %.4f  test accuracy %.2f %%\n", ++epoch, logged.at("loss"),
                100 * logged.at("accuracy"));
  }

  int epoch = 0;
};

void train(const Options& options) {
  const halftone::FashionMnist data =
      halftone::read_fashion_mnist(halftone::fetch_dataset("dataset-fashion-mnist").folder);
  halftone::TensorLoader train({data.train_images, data.train_labels},
                               {.batch_size = 64, .seed = options.seed});
  halftone::TensorLoader test({data.test_images, data.test_labels},
                              {.batch_size = 1000, .shuffle = false});
  torch::manual_seed(options.seed);
  Classifier model;
  halftone::Trainer trainer({.max_epochs = options.epochs,
                             .precision = options.precision,
                             .callbacks = {std::make_shared<Report>()}});
  trainer.fit(model, train, test);
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
