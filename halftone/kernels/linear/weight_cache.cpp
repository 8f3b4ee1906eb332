// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/weight_cache.h"

#include <utility>

#include "halftone/kernels/common/merged_weights_impl.h"

namespace halftone {

OperandPtr WeightCache::weight(ComputeType type, at::TensorList weights) {
  const MatmulFormat& format = matmul_format(type);
  std::vector<std::uint32_t> versions;
  for (const torch::Tensor& weight : weights) {
    if (weight.is_inference()) return format.weight(weights);  // it has no version
    versions.push_back(static_cast<std::uint32_t>(weight._version()));
  }
  const Key key{weights.front().const_data_ptr(), total_rows(weights), weights.front().size(1),
                type};
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[key];
  if (entry.operand == nullptr || entry.versions != versions)
    entry = {std::move(versions), format.weight(weights)};
  return entry.operand;
}

OperandPtr weight_operand(const ComputeContext& context, ComputeType type, at::TensorList weights,
                          const std::vector<torch::Tensor>& kept) {
  const MatmulFormat& format = matmul_format(type);
  if (context.weight_cache && format.rounds() && kept.empty())
    return context.weight_cache->weight(type, weights);
  return format.weight(weights, kept);
}

}  // namespace halftone
