// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/feed_forward.h"

#include <ATen/ops/dropout.h>
#include <ATen/ops/silu.h>

#include "halftone/kernels/linear.h"

namespace halftone {

using torch::Tensor;

FeedForwardImpl::FeedForwardImpl(std::int64_t dim, std::int64_t hidden_dim, double dropout)
    : dropout_(dropout) {
  w1_ = register_module("w1", Linear(dim, hidden_dim));
  w2_ = register_module("w2", Linear(hidden_dim, dim));
  w3_ = register_module("w3", Linear(dim, hidden_dim));
}

Tensor FeedForwardImpl::forward(const Tensor& x) {
  const std::vector<Tensor> gate_up = linear_group(x, {w1_->weight, w3_->weight});
  const Tensor out = w2_(at::silu(gate_up[0]) * gate_up[1]);
  return is_training() && dropout_ > 0.0 ? at::dropout(out, dropout_, /*train=*/true) : out;
}

}  // namespace halftone
