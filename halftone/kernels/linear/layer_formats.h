// SPDX-License-Identifier: Apache-2.0
// Formats of single linear layers, in the place of the one that their recipe gives to all.
#pragma once

#include <c10/util/intrusive_ptr.h>
#include <torch/types.h>

#include <cstddef>
#include <optional>
#include <unordered_map>

#include "halftone/kernels/gemm/compute_type.h"

namespace halftone {

/// Whether a layer may multiply in `layer` among layers that multiply in `recipe`. The tensors
/// between layers have the recipe's tensor_dtype(): that of the layer must be the same one or fp32,
/// unless the recipe's is fp32, and a format of short range needs a recipe that scales the loss.
bool can_stand_among(ComputeType layer, ComputeType recipe);

/// A layer is known by its weight: set_data(), and with it module.to(), keeps the format, clone()
/// does not. Weights are held weakly. It is in force as a member of a ComputeContext.
class LayerFormats {
 public:
  /// The layers of `weight` multiply in `type`.
  void set(const torch::Tensor& weight, ComputeType type);
  /// The format set for `weight`, or for what it is a view of.
  std::optional<ComputeType> of(const torch::Tensor& weight) const;
  std::size_t size() const { return formats_.size(); }

 private:
  using Weak = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;
  struct Format {
    Weak weight;  // holds the address: no later tensor is taken for one that was freed
    ComputeType type;
  };
  std::unordered_map<const c10::TensorImpl*, Format> formats_;
};

/// The format of its own that the present ComputeContext has for the layers of `weight`.
std::optional<ComputeType> layer_format(const torch::Tensor& weight);

}  // namespace halftone
