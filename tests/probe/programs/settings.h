// SPDX-License-Identifier: Apache-2.0
// The command line of the programs beside it, and a training step in the precision that it asks
// for. They know LibTorch, and nothing else of this project.
#pragma once

#include <ATen/autocast_mode.h>
#include <dlfcn.h>
#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

struct Settings {
  std::string precision = "fp32", fault = "none", load;
  int steps = 4;
  int seed = 0;
};

inline Settings settings(int argc, char** argv) {
  Settings read;
  std::map<std::string, std::string> values;
  for (int i = 1; i + 1 < argc; i += 2) values[argv[i]] = argv[i + 1];
  for (const auto& [name, value] : values) {
    if (name == "--precision") read.precision = value;
    if (name == "--fault") read.fault = value;
    if (name == "--load") read.load = value;
    if (name == "--steps") read.steps = std::atoi(value.c_str());
    if (name == "--seed") read.seed = std::atoi(value.c_str());
  }
  if (!read.load.empty() && dlopen(read.load.c_str(), RTLD_NOW) == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    std::exit(1);
  }
  torch::manual_seed(read.seed);
  torch::set_num_threads(1);
  return read;
}

class Autocast {
 public:
  explicit Autocast(const std::string& precision) : is_on_(precision != "fp32") {
    if (!is_on_) return;
    at::autocast::set_autocast_dtype(at::kCPU, precision == "fp16" ? at::kHalf : at::kBFloat16);
    at::autocast::set_autocast_enabled(at::kCPU, true);
    at::autocast::increment_nesting();
  }
  ~Autocast() {
    if (!is_on_) return;
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCPU, false);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool is_on_;
};

/// Where gradients are fp16, with a loss scale that is too large in the beginning, and is halved.
class Training {
 public:
  Training(std::vector<torch::Tensor> parameters, std::string precision, double learning_rate)
      : parameters_(std::move(parameters)),
        precision_(std::move(precision)),
        optimizer_(parameters_, torch::optim::AdamWOptions(learning_rate)) {}

  torch::optim::Optimizer& optimizer() { return optimizer_; }
  const std::vector<torch::Tensor>& parameters() const { return parameters_; }

  /// Returns whether the weights were updated.
  bool update(const torch::Tensor& loss) {
    optimizer_.zero_grad();
    if (precision_ != "fp16") {
      loss.backward();
      torch::nn::utils::clip_grad_norm_(parameters_, 1.0);
      optimizer_.step();
      return true;
    }
    (loss * scale_).backward();
    const torch::NoGradGuard no_grad;
    std::vector<torch::Tensor> gradients;
    for (const torch::Tensor& parameter : parameters_)
      if (parameter.grad().defined()) gradients.push_back(parameter.grad());
    torch::Tensor found = torch::zeros({1});
    at::_amp_foreach_non_finite_check_and_unscale_(gradients, found, scale_.reciprocal());
    const bool is_fine = found.item<float>() == 0.0F;
    if (is_fine) optimizer_.step();
    if (!is_fine) scale_.mul_(0.5);
    return is_fine;
  }

 private:
  std::vector<torch::Tensor> parameters_;
  std::string precision_;
  torch::optim::AdamW optimizer_;
  torch::Tensor scale_ = torch::full({1}, 4194304.0F).squeeze();
};

inline void report(int step, const torch::Tensor& loss) {
  std::printf("step %d: loss %.6f\n", step, loss.item<double>());
}
