// SPDX-License-Identifier: Apache-2.0
// Weights of layers and embeddings that are held narrower than their layers compute, for inference:
// a quarter or half of the bytes that each token reads.
#pragma once

#include <c10/util/intrusive_ptr.h>
#include <torch/types.h>

#include <string_view>
#include <unordered_map>
#include <vector>

#include "halftone/kernels/gemm/int8_weights.h"

namespace halftone {

/// What weights are held in.
enum class WeightStorage { kFloat32, kBFloat16, kFloat16, kInt8 };

/// "fp32", "bf16", "fp16", "int8".
std::string_view to_string(WeightStorage storage);
/// Throws UserError for another word.
WeightStorage parse_weight_storage(std::string_view name);

/// The weights that have been put in. In force as a member of a ComputeContext: linear() and
/// lm_head_logits() then multiply such a weight as it is held, embedding_rows() looks rows up.
/// A weight is known by its tensor: clone() and view() are not it. Weights are held weakly.
class StoredWeights {
 public:
  /// Replaces the data of `weight` (out, in), fp32 or 16-bit, by what is held: a tensor of the same
  /// sizes in bf16, fp16 or int8, without gradients. `place`: where to, bytes_of() of uint8;
  /// undefined: memory of its own. Throws UserError for fp16 where a finite value overflows.
  void store(torch::Tensor& weight, WeightStorage storage, torch::Tensor place = {});
  static std::int64_t bytes_of(const torch::Tensor& weight, WeightStorage storage);

  bool holds(const torch::Tensor& weight) const;

  /// merged_linear(x, weights), whose weights are all held here. 16-bit weights are multiplied
  /// exactly, with x in `dtype`; int8 ones with x quantized by rows (int8_weights.h). The result is
  /// rounded once to `dtype`.
  torch::Tensor linear(const torch::Tensor& x, const std::vector<torch::Tensor>& weights,
                       torch::ScalarType dtype) const;

  /// Rows of `weight` by `ids` (...), in fp32: (..., in).
  torch::Tensor rows(const torch::Tensor& weight, const torch::Tensor& ids) const;

 private:
  using Weak = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;
  struct Entry {
    Weak weight;           // holds the address: no later tensor is taken for one that was freed
    torch::Tensor scales;  // of int8
  };
  std::unordered_map<const c10::TensorImpl*, Entry> entries_;
};

/// The ones that the present ComputeContext has, if they hold `weight`; else null.
const StoredWeights* stored_weights_of(const torch::Tensor& weight);

}  // namespace halftone
