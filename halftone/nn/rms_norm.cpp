// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/rms_norm.h"

#include <ATen/ops/ones.h>

#include "halftone/core/module_scope.h"
#include "halftone/nn/new_parameter.h"

namespace halftone {

using torch::Tensor;

RmsNormImpl::RmsNormImpl(std::int64_t dim, double eps) : eps_(eps) {
  weight = register_parameter("weight", new_parameter({dim}).fill_(1));
}

Tensor RmsNormImpl::forward(const Tensor& x) {
  const ModuleScope scope(*this);
  return rms_norm(x, weight, eps_);
}

NormedSum RmsNormImpl::add(const Tensor& x, const Tensor& branch, torch::ScalarType dtype) {
  const ModuleScope scope(*this);
  return add_rms_norm(x, branch, weight, eps_, dtype);
}

}  // namespace halftone
