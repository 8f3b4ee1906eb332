// SPDX-License-Identifier: Apache-2.0
// Whole optimizer steps (forward, backward, clip, AdamW) of one recipe on one device.
#pragma once

#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "halftone/core/device.h"
#include "halftone/halftone.h"

namespace halftone::bench {

// What people start with to see something move; not worth a preset of its own.
inline ModelConfig config_of(const std::string& preset) {
  if (preset == "dim-64")
    return {.dim = 64, .n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .max_seq_len = 2048};
  return preset_config(preset);
}

struct Recipe {
  PrecisionPolicy precision;
  MemoryPolicy memory;
};

/// "bf16-mixed", "bf16-mixed+lean", "bf16-mixed+lean+recompute=none".
inline Recipe recipe_of(const std::string& name) {
  std::istringstream parts(name);
  std::string part;
  std::getline(parts, part, '+');
  const PrecisionPolicy precision = parse_precision(part);
  MemoryOptions choice;
  const std::map<std::string, std::string*> keys{{"master_weights", &choice.master_weights},
                                                 {"moments", &choice.moments},
                                                 {"recompute", &choice.recompute}};
  while (std::getline(parts, part, '+')) {
    const std::size_t equals = part.find('=');
    *(equals == std::string::npos ? &choice.memory : keys.at(part.substr(0, equals))) =
        part.substr(equals + 1);
  }
  return {precision, memory_policy(choice, precision)};
}

struct StepOutcome {
  torch::Tensor loss;  // scalar, on the device
  StepResult result;
};

class TrainStep {
 public:
  /// The model moves to `device`; its weights are those of `weights` where that has some.
  TrainStep(const std::string& preset, const Recipe& recipe, torch::Device device,
            const StateDict& weights = {})
      : memory_(recipe.memory),
        precision_(recipe.precision, {}, device, recipe.memory),
        model_(config_of(preset)) {
    if (!weights.tensors.empty()) load_parameters(model_, weights, "the file of weights");
    optimizer_ = std::make_shared<AdamW>(parameters(), memory_.adamw());
    release_free_memory();  // as the trainer does: the weights have moved
  }

  /// Of ids (B, T + 1) on the device.
  StepOutcome operator()(const torch::Tensor& ids) {
    constexpr GradientClip kClip{.value = 1.0};
    optimizer_->zero_grad();
    const torch::Tensor loss = loss_of(ids);
    StepOutcome outcome{.loss = loss.detach()};
    if (memory_.release_gradients) {
      outcome.result = precision_.backward_and_step(loss, {optimizer_}, kClip);
    } else {
      precision_.backward(loss);
      outcome.result = precision_.step({optimizer_}, kClip);
    }
    precision_.update();
    return outcome;
  }

  const ModelConfig& config() { return model_->config(); }

 private:
  torch::Tensor loss_of(const torch::Tensor& ids) {
    const std::int64_t length = ids.size(1) - 1;
    if (!mask_.defined()) mask_ = torch::ones({ids.size(0), length}, ids.device());
    const auto region = precision_.forward_context(pass_++);
    return model_->loss(ids.narrow(1, 0, length), ids.narrow(1, 1, length), mask_).total();
  }

  std::vector<std::pair<std::string, torch::Tensor>> parameters() {
    precision_.convert_module(*model_);
    std::vector<std::pair<std::string, torch::Tensor>> named;
    for (const auto& item : model_->named_parameters())
      named.emplace_back(item.key(), item.value());
    return named;
  }

  MemoryPolicy memory_;
  MixedPrecision precision_;
  CausalLM model_;
  std::shared_ptr<AdamW> optimizer_;
  std::int64_t pass_ = 0;
  torch::Tensor mask_;  // (B, T)
};

}  // namespace halftone::bench
