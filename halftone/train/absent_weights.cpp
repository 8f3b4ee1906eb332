// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <utility>

#include "halftone/core/error.h"
#include "halftone/train/absent_weights_impl.h"

namespace halftone {

void AbsentWeights::begin(const OperationCall& call) {
  const bool is_operation = call.name.find("::") != std::string::npos;  // "detach" is a view
  if (!is_operation || call.is_view || call.is_backward) return;
  for (const OperationTensors& input : call.inputs) {
    if (!input.is_read) continue;
    for (const torch::Tensor& tensor : input.tensors) {
      const std::optional<std::string> weight = name_of_(tensor);
      const std::lock_guard lock(mutex_);
      if (!weight || !weight_.empty()) continue;
      weight_ = *weight;
      operation_ = call.name;
    }
  }
}

void AbsentWeights::check() const {
  const std::lock_guard lock(mutex_);
  if (weight_.empty()) return;
  throw UserError(fmt::format(
      "trainer: {} has read '{}' when its weights were not in memory: with shard parameters those "
      "of a block that halftone::recompute() runs are there while it runs; read it in its block "
      "alone, or choose shard gradients",
      operation_, weight_));
}

}  // namespace halftone
