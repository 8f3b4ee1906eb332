// SPDX-License-Identifier: Apache-2.0
// A program of its own that uses the installed library: the code that README.md, README_zh.md and
// docs/guide.md show, word for word.
#include <halftone/halftone.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace {

// README.md
float fit(const torch::Tensor& x, const torch::Tensor& target) {
  halftone::FeedForward model(16, 64, 0.0);  // or any torch::nn::Module
  halftone::AdamW optimizer(model->parameters(), {.lr = 1e-2});
  halftone::GradScaler scaler({.init_scale = 1024.0});
  scaler.name_parameters(*model);
  torch::Tensor loss;
  for (int step = 0; step < 100; ++step) {
    {
      const halftone::Autocast autocast(torch::kCPU, torch::kHalf);
      loss = (model->forward(x) - target).square().mean();
    }
    scaler.scale(loss).backward();
    const halftone::StepResult result = scaler.step(optimizer, {.clip_norm = 1.0});
    if (!result.stepped) std::printf("overflow in %s\n", result.overflow.front().c_str());
    scaler.update();
    optimizer.zero_grad();
  }
  return loss.item<float>();
}

// README.md
struct Model : halftone::TrainingModule<> {
  halftone::FeedForward layers = register_module("layers", halftone::FeedForward(16, 64, 0.0));

  torch::Tensor training_step(const Batch& batch, std::int64_t /*index*/) override {
    return (layers(batch.data) - batch.target).square().mean();
  }
  std::vector<halftone::OptimizerSetup> configure_optimizers(
      const halftone::OptimizerContext& context) override {
    return {std::make_shared<halftone::AdamW>(parameters(), context.adamw({.lr = 1e-2}))};
  }
};

double fit_with_trainer(const torch::Tensor& x, const torch::Tensor& target) {
  Model model;
  halftone::TensorLoader loader({x, target}, {.batch_size = 8});
  halftone::Trainer trainer({.max_epochs = 50, .precision = "16-mixed", .gradient_clip_val = 1.0});
  trainer.fit(model, loader);
  return trainer.validate(model, loader).at("val_loss");
}

// docs/guide.md: an optimizer of LibTorch's
float fit_with_sgd(const torch::Tensor& x, const torch::Tensor& target) {
  halftone::FeedForward model(16, 64, 0.0);
  torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  halftone::GradScaler scaler({.init_scale = 1024.0});
  torch::Tensor loss;
  for (int step = 0; step < 100; ++step) {
    {
      const halftone::Autocast autocast(torch::kCPU, torch::kHalf);
      loss = (model->forward(x) - target).square().mean();
    }
    scaler.scale(loss).backward();
    scaler.unscale_(optimizer);
    halftone::clip_grad_norm_(model->parameters(), 1.0);
    scaler.step(optimizer);
    scaler.update();
    optimizer.zero_grad();
  }
  return loss.item<float>();
}

// docs/numerics.md
std::string first_non_finite(const torch::Tensor& x) {
  halftone::FeedForward model(16, 64, 0.0);
  const torch::NoGradGuard no_grad;
  model->named_parameters()["w1.weight"].fill_(3e38F);
  const auto origin =
      halftone::find_first_non_finite(*model, [&] { return model->forward(x).sum(); });
  return origin ? to_string(*origin) : "";
}

// docs/guide.md: what `halftone train` does
struct Losses : halftone::Callback {
  void on_step_end(halftone::Trainer& /*trainer*/, const halftone::StepMetrics& metrics) override {
    std::printf("loss %.3f\n", metrics.loss);
  }
};

halftone::PretrainResult train(const std::string& text, const std::string& run) {
  halftone::TrainConfig config;
  config.preset = "tiny";
  config.model = halftone::preset_config(config.preset);
  config.model.vocab_size = 0;  // as many as the tokenizer has tokens
  config.data = {text};
  config.precision = "16-mixed";
  config.seq_len = 32;
  config.max_steps = 3;
  config.out = run;
  return halftone::pretrain(config, {.callbacks = {std::make_shared<Losses>()}});
}

// docs/guide.md: what `halftone generate` does
std::string text_of(const std::string& run) {
  halftone::TrainedModel trained = halftone::load_trained_model(run);
  halftone::StreamDecoder decoder(trained.tokenizer);
  std::string text;
  halftone::generate(trained.model, {trained.tokenizer.special_tokens().bos},
                     {.seed = 1, .max_new_tokens = 8}, [&](std::int64_t id) {
                       text += decoder.push(static_cast<std::int32_t>(id));
                       return true;
                     });
  return text + decoder.flush();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: consumer TEXT_FILE\n");
    return 2;
  }
  const torch::Tensor x = torch::randn({32, 16});
  const torch::Tensor target = x.flip({1});
  const std::filesystem::path run =
      std::filesystem::temp_directory_path() / ("halftone-consumer-" + std::to_string(::getpid()));
  const bool fits =
      fit(x, target) < 0.1F && fit_with_sgd(x, target) < 0.5F && fit_with_trainer(x, target) < 0.1;
  const bool trains = train(argv[1], run.string()).steps == 3;
  const bool writes = text_of(run.string()) == text_of(run.string());
  std::filesystem::remove_all(run);
  const bool finds = first_non_finite(x).find(
                         "with 'w1.weight' makes the first non-finite value") != std::string::npos;
  const bool right = fits && trains && writes && finds;
  std::printf("consumer: %s\n", right ? "ok" : "wrong");
  return right ? 0 : 1;
}
