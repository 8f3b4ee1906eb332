// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/feed_forward.h"

#include <ATen/ops/dropout.h>

#include "halftone/core/module_scope.h"
#include "halftone/kernels/fused/swiglu.h"
#include "halftone/kernels/linear/linear.h"

namespace halftone {

using torch::Tensor;

FeedForwardImpl::FeedForwardImpl(std::int64_t dim, std::int64_t hidden_dim, double dropout)
    : dropout_(dropout) {
  w1_ = register_module("w1", Linear(dim, hidden_dim));
  w2_ = Linear(hidden_dim, dim);
  // Before w2: the optimizer lays parameters out in this order, and w1 and w3 are multiplied as
  // one.
  w3_ = register_module("w3", Linear(dim, hidden_dim));
  register_module("w2", w2_);
}

Tensor FeedForwardImpl::forward(const Tensor& x) {
  const ModuleScope scope(*this);
  const Tensor hidden =
      with_adapters(merged_linear(x, {w1_->weight, w3_->weight}), x, {w1_.get(), w3_.get()});
  const Tensor out = w2_(swiglu(hidden));
  return is_training() && dropout_ > 0.0 ? at::dropout(out, dropout_, /*train=*/true) : out;
}

torch::ScalarType FeedForwardImpl::input_dtype(const Tensor& x) const {
  return halftone::input_dtype(x, input_weights({w1_.get(), w3_.get()}));
}

}  // namespace halftone
