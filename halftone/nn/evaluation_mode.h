// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <memory>
#include <utility>
#include <vector>

namespace halftone {

/// Eval mode and no gradients while it lives. Afterwards, also after an exception, `module` and
/// each module below it is in the mode in which it was, whatever that of the others. `module` must
/// outlive it.
class EvaluationMode {
 public:
  explicit EvaluationMode(torch::nn::Module& module);
  ~EvaluationMode();
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  const torch::NoGradGuard no_grad_;
  torch::nn::Module& module_;
  const bool was_training_;
  /// The modules below `module_` with their modes, each behind those that hold it.
  std::vector<std::pair<std::shared_ptr<torch::nn::Module>, bool>> below_;
};

}  // namespace halftone
