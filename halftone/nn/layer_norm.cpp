// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/layer_norm.h"

#include <fmt/format.h>

#include "halftone/core/error.h"
#include "halftone/core/module_scope.h"
#include "halftone/kernels/fused/layer_norm.h"
#include "halftone/nn/new_parameter.h"

namespace halftone {

using torch::Tensor;

LayerNormImpl::LayerNormImpl(std::int64_t dim, double eps, bool has_affine) : dim_(dim), eps_(eps) {
  if (!has_affine) return;
  weight = register_parameter("weight", new_parameter({dim}).fill_(1));
  bias = register_parameter("bias", new_parameter({dim}).zero_());
}

Tensor LayerNormImpl::forward(const Tensor& x) {
  const ModuleScope scope(*this);
  HALFTONE_CHECK(x.dim() >= 1 && x.size(-1) == dim_, "[layer_norm] expected x (..., ", dim_,
                 "), got ", x.sizes());
  return layer_norm(x, weight, bias, eps_);
}

GroupNormImpl::GroupNormImpl(std::int64_t groups, std::int64_t channels, double eps,
                             bool has_affine)
    : groups_(groups), channels_(channels), eps_(eps) {
  if (groups < 1 || channels < 1 || channels % groups != 0)
    throw UserError(fmt::format(
        "GroupNorm: expected channels that are a multiple of groups, got {} channels in {} groups",
        channels, groups));
  if (!has_affine) return;
  weight = register_parameter("weight", new_parameter({channels}).fill_(1));
  bias = register_parameter("bias", new_parameter({channels}).zero_());
}

Tensor GroupNormImpl::forward(const Tensor& x) {
  const ModuleScope scope(*this);
  HALFTONE_CHECK(x.dim() >= 2 && x.size(1) == channels_, "[group_norm] expected x (B, ", channels_,
                 ", ...), got ", x.sizes());
  return group_norm(x, groups_, weight, bias, eps_);
}

}  // namespace halftone
