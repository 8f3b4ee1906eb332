// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/evaluation_mode.h"

namespace halftone {
namespace {

// train() reaches all modules below, and a module may override it: it is not called for nothing.
void set_mode(torch::nn::Module& module, bool training) {
  if (module.is_training() != training) module.train(training);
}

}  // namespace

EvaluationMode::EvaluationMode(torch::nn::Module& module)
    : module_(module), was_training_(module.is_training()) {
  for (auto& one : module.modules(/*include_self=*/false)) {
    const bool training = one->is_training();
    below_.emplace_back(std::move(one), training);
  }
  module.eval();
}

EvaluationMode::~EvaluationMode() {
  set_mode(module_, was_training_);
  for (const auto& [module, training] : below_) set_mode(*module, training);
}

}  // namespace halftone
