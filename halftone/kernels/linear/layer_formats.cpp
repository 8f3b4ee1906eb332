// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/layer_formats.h"

#include "halftone/core/error.h"
#include "halftone/kernels/linear/compute_context.h"

namespace halftone {

bool can_stand_among(ComputeType layer, ComputeType recipe) {
  if (layer == recipe) return true;
  if (needs_loss_scaling(layer) && !needs_loss_scaling(recipe)) return false;
  const torch::ScalarType own = tensor_dtype(layer), between = tensor_dtype(recipe);
  return own == between || own == torch::kFloat || between == torch::kFloat;
}

void LayerFormats::set(const torch::Tensor& weight, ComputeType type) {
  HALFTONE_CHECK(weight.defined(), "[layer_formats] expected a weight, got an undefined tensor");
  formats_.insert_or_assign(weight.unsafeGetTensorImpl(),
                            Format{Weak(weight.getIntrusivePtr()), type});
}

std::optional<ComputeType> LayerFormats::of(const torch::Tensor& weight) const {
  if (formats_.empty() || !weight.defined()) return std::nullopt;
  auto found = formats_.find(weight.unsafeGetTensorImpl());
  if (found == formats_.end() && weight.is_view())
    found = formats_.find(weight._base().unsafeGetTensorImpl());
  return found == formats_.end() ? std::nullopt : std::optional(found->second.type);
}

std::optional<ComputeType> layer_format(const torch::Tensor& weight) {
  const ComputeContext& context = compute_context();
  return context.layer_formats ? context.layer_formats->of(weight) : std::nullopt;
}

}  // namespace halftone
