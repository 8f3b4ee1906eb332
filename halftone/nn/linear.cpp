// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/linear.h"

#include <cmath>

#include "halftone/core/module_scope.h"
#include "halftone/kernels/linear/linear.h"
#include "halftone/nn/new_parameter.h"

namespace halftone {

LinearImpl::LinearImpl(std::int64_t in_features, std::int64_t out_features, bool has_bias) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(in_features));
  weight = register_parameter("weight",
                              new_parameter({out_features, in_features}).uniform_(-bound, bound));
  if (has_bias)
    bias = register_parameter("bias", new_parameter({out_features}).uniform_(-bound, bound));
}

torch::Tensor LinearImpl::forward(const torch::Tensor& x) {
  const ModuleScope scope(*this);
  // at::linear would be found by its arguments too.
  const torch::Tensor y = halftone::linear(x, weight);
  return bias.defined() ? y + bias.to(y.scalar_type()) : y;
}

}  // namespace halftone
