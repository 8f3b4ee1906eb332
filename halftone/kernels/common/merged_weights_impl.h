// SPDX-License-Identifier: Apache-2.0
// Several linear layers of one input as one matrix: their weights (out_i, in) below each other.
#pragma once

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace halftone {

inline std::vector<std::int64_t> row_counts(at::TensorList weights) {
  std::vector<std::int64_t> counts;
  for (const torch::Tensor& weight : weights) counts.push_back(weight.size(0));
  return counts;
}

inline std::int64_t total_rows(at::TensorList weights) {
  std::int64_t total = 0;
  for (const torch::Tensor& weight : weights) total += weight.size(0);
  return total;
}

/// A view of all of them where they lie one after the other in one buffer, else undefined.
inline torch::Tensor merged_view(at::TensorList weights) {
  const torch::Tensor& first = weights.front();
  std::int64_t offset = first.storage_offset();
  for (const torch::Tensor& weight : weights) {
    if (!weight.is_contiguous() || weight.scalar_type() != first.scalar_type() ||
        !weight.storage().is_alias_of(first.storage()) || weight.storage_offset() != offset)
      return {};
    offset += weight.numel();
  }
  return first.detach().as_strided({total_rows(weights), first.size(1)}, {first.size(1), 1});
}

/// Whether a gradient is wanted for one of the `count` weights that follow an operation's input.
inline bool needs_any_weight_grad(torch::autograd::AutogradContext& ctx, std::size_t count) {
  for (std::size_t i = 1; i <= count; ++i)
    if (ctx.needs_input_grad(i)) return true;
  return false;
}

/// The rows of `merged` go to the weights' places in `grads`, which follow that of the input.
inline void split_rows(const torch::Tensor& merged, const std::vector<std::int64_t>& counts,
                       torch::autograd::variable_list& grads) {
  std::int64_t row = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    grads[i + 1] = merged.narrow(0, row, counts[i]);
    row += counts[i];
  }
}

}  // namespace halftone
