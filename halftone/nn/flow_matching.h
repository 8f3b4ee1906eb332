// SPDX-License-Identifier: Apache-2.0
// Flow matching (Lipman et al. 2023) on straight lines from noise (t = 0) to data (t = 1), for a
// model that predicts the data x at the end of the line from a point on it (Li and He 2025).
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>

namespace halftone {

/// The points t x + (1 - t) noise. x and noise (B, ...) of any dtypes, t (B) in 0..1; computed in
/// fp32 in every precision: a point near the data differs from it by little. Throws c10::Error for
/// other shapes.
torch::Tensor flow_points(const torch::Tensor& x, const torch::Tensor& noise,
                          const torch::Tensor& t);

/// The mean squared error of the direction (x - z) / (1 - t) at the points z, where the model says
/// `predicted` of x. Near the data, where 1 - t is below `least`, it counts as `least`. Shapes as
/// flow_points() has them; an fp32 scalar, computed in fp32 in every precision, differentiable by
/// `predicted`.
torch::Tensor flow_matching_loss(const torch::Tensor& predicted, const torch::Tensor& x,
                                 const torch::Tensor& t, double least = 0.05);

/// What a model says of x at the points z (B, ...) fp32, all at the time t.
using PredictedData = std::function<torch::Tensor(const torch::Tensor& z, double t)>;

/// Where one comes from `noise` (B, ...) in `steps` >= 1 steps of Euler's method: fp32 (B, ...).
/// The times are (i / steps)^2, since the first steps decide the most. Weights are brought into the
/// precision's format once for all steps: they must stay as they are meanwhile.
torch::Tensor follow_flow(const torch::Tensor& noise, std::int64_t steps,
                          const PredictedData& predict);

}  // namespace halftone
