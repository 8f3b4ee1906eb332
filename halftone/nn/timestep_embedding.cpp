// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/timestep_embedding.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/core/error.h"
#include "halftone/core/module_scope.h"

namespace halftone {

using torch::Tensor;

Tensor sinusoidal_embedding(const Tensor& t, std::int64_t size, double max_period) {
  HALFTONE_CHECK(t.dim() == 1 && size >= 2 && max_period > 0.0,
                 "[sinusoidal_embedding] expected t (B), a size from 2 and a period above 0, got ",
                 t.sizes(), ", ", size, " and ", max_period);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto fp32 = t.options().dtype(torch::kFloat);
  const std::int64_t half = size / 2;
  const Tensor frequencies =
      (at::arange(half, fp32) * (-std::log(max_period) / static_cast<double>(half))).exp();
  const Tensor angles = t.to(torch::kFloat).unsqueeze(1) * frequencies;
  std::vector<Tensor> columns{angles.cos(), angles.sin()};
  if (size % 2 != 0) columns.push_back(at::zeros({t.size(0), 1}, fp32));
  return at::cat(columns, 1);
}

TimestepEmbeddingImpl::TimestepEmbeddingImpl(std::int64_t dim, std::int64_t sinusoidal_size,
                                             double max_period)
    : sinusoidal_size_(sinusoidal_size), max_period_(max_period) {
  w1_ = register_module("w1", Linear(sinusoidal_size, dim, /*has_bias=*/true));
  w2_ = register_module("w2", Linear(dim, dim, /*has_bias=*/true));
}

Tensor TimestepEmbeddingImpl::forward(const Tensor& t) {
  const ModuleScope scope(*this);
  Tensor waves = sinusoidal_embedding(t, sinusoidal_size_, max_period_);
  // In a true 16-bit precision nothing else would round them to the weights' dtype.
  if (!is_autocast_on(t.device().type())) waves = waves.to(w1_->weight.scalar_type());
  return w2_(at::silu(w1_(waves)));
}

}  // namespace halftone
