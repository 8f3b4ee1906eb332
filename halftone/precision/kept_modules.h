// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <string>
#include <vector>

#include "halftone/precision/keep_fp32.h"

namespace halftone {

/// keep_fp32() for as long as it lives: at its end what was not marked before is so again. It does
/// not keep parameters alive.
class KeptModules {
 public:
  /// Throws what keep_fp32() throws.
  KeptModules(torch::nn::Module& root, const std::vector<std::string>& patterns, bool is_logged);
  ~KeptModules();
  KeptModules(const KeptModules&) = delete;
  KeptModules& operator=(const KeptModules&) = delete;

  bool has_marked() const { return !marked_.empty(); }

 private:
  std::vector<c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>> marked_;
};

}  // namespace halftone
