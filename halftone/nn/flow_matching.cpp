// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/flow_matching.h"

#include <memory>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/kernels/linear/compute_context.h"
#include "halftone/kernels/linear/weight_cache.h"

namespace halftone {

using torch::Tensor;

namespace {

/// t (B) fp32 as (B, 1, ...), to be multiplied with x (B, ...).
Tensor times_of(const Tensor& t, const Tensor& x) {
  HALFTONE_CHECK(x.dim() >= 1 && t.dim() == 1 && t.size(0) == x.size(0),
                 "[flow_matching] expected x (B, ...) and t (B), got ", x.sizes(), " and ",
                 t.sizes());
  std::vector<std::int64_t> shape(static_cast<std::size_t>(x.dim()), 1);
  shape[0] = t.size(0);
  return t.to(torch::kFloat).view(shape);
}

}  // namespace

Tensor flow_points(const Tensor& x, const Tensor& noise, const Tensor& t) {
  HALFTONE_CHECK(x.sizes() == noise.sizes(), "[flow_matching] expected noise of the shape of x, ",
                 x.sizes(), ", got ", noise.sizes());
  return torch::lerp(noise.to(torch::kFloat), x.to(torch::kFloat), times_of(t, x));
}

Tensor flow_matching_loss(const Tensor& predicted, const Tensor& x, const Tensor& t, double least) {
  HALFTONE_CHECK(predicted.sizes() == x.sizes(), "[flow_matching] expected x of the shape ",
                 predicted.sizes(), ", got ", x.sizes());
  const Tensor error = predicted.to(torch::kFloat) - x.to(torch::kFloat);
  return (error / (1 - times_of(t, x)).clamp_min(least)).square().mean();
}

Tensor follow_flow(const Tensor& noise, std::int64_t steps, const PredictedData& predict) {
  HALFTONE_CHECK(steps >= 1, "[flow_matching] expected steps >= 1, got ", steps);
  ComputeContext context = compute_context();
  context.weight_cache = std::make_shared<WeightCache>();
  const ComputeScope scope(context);
  const auto time = [steps](std::int64_t step) {
    const double share = static_cast<double>(step) / static_cast<double>(steps);
    return share * share;
  };
  Tensor z = noise.to(torch::kFloat);
  for (std::int64_t i = 0; i < steps; ++i) {
    const Tensor x = predict(z, time(i)).to(torch::kFloat);
    z = torch::lerp(z, x, (time(i + 1) - time(i)) / (1 - time(i)));
  }
  return z;
}

}  // namespace halftone
