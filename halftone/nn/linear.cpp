// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/linear.h"

#include <cmath>

#include "halftone/core/module_scope.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/nn/new_parameter.h"

namespace halftone {

LinearImpl::LinearImpl(std::int64_t in_features, std::int64_t out_features) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(in_features));
  weight = register_parameter("weight",
                              new_parameter({out_features, in_features}).uniform_(-bound, bound));
}

torch::Tensor LinearImpl::forward(const torch::Tensor& x) {
  const ModuleScope scope(*this);
  return halftone::linear(x, weight);  // at::linear would be found by its arguments too
}

}  // namespace halftone
