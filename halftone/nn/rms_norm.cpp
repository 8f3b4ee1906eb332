// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/rms_norm.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/ones.h>

#include "halftone/core/keep_fp32.h"

namespace halftone {

using torch::Tensor;

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  const bool kept = at::autocast::is_autocast_enabled(x.device().type()) && keeps_fp32(weight);
  // CUDA's autocast would round nothing here, but keep the arithmetic this library's own.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const Tensor wide = x.scalar_type() == torch::kDouble ? x : x.to(torch::kFloat);
  const Tensor inverse_rms = (wide.square().mean(-1, /*keepdim=*/true) + eps).rsqrt();
  const Tensor normed = wide * inverse_rms;
  return kept ? normed * widened(weight) : normed.to(x.scalar_type()) * weight;
}

RmsNormImpl::RmsNormImpl(std::int64_t dim, double eps) : eps_(eps) {
  weight = register_parameter("weight", torch::ones({dim}));
}

Tensor RmsNormImpl::forward(const Tensor& x) { return rms_norm(x, weight, eps_); }

}  // namespace halftone
