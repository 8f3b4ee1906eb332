// SPDX-License-Identifier: Apache-2.0
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/maximum.h>

#include "halftone/diagnostics/compare/rounding_noise_impl.h"

namespace halftone {
namespace {

// The error of rounding x = m 2^e, 1 <= m < 2, is uniform within half a unit of the last place. As
// a share of x it falls with m: where log m is uniform, the mean of 1 / m^2 is 3 / (8 ln 2).
constexpr double kMeanOfMantissas = 0.7355;  // its square root

// Rounding up or down at random has twice the mean square of rounding to the nearest.
constexpr double kStochastic = 1.4142135623730951;

/// For each element, the largest magnitude in its row or column.
torch::Tensor largest_beside(const torch::Tensor& tensor) {
  const torch::Tensor sizes = tensor.detach().abs();
  if (tensor.dim() < 2) return sizes.max();
  const torch::Tensor rows = sizes.flatten(0, -2);
  return at::maximum(rows.amax(0, /*keepdim=*/true), rows.amax(1, /*keepdim=*/true))
      .view_as(tensor);
}

}  // namespace

RoundingNoise::RoundingNoise(std::uint64_t seed)
    : generator_(at::detail::createCPUGenerator(seed)) {}

torch::Tensor RoundingNoise::uniform(const torch::Tensor& like) {
  torch::Tensor noise = at::empty(like.sizes(), torch::dtype(torch::kFloat));
  noise.uniform_(-1.0, 1.0, generator_);
  return noise.to(like.device());
}

void RoundingNoise::add_to(const torch::Tensor& tensor, const NumberFormat& format,
                           bool stochastic) {
  if (tensor.numel() == 0) return;
  const double size = format.unit_roundoff() * (stochastic ? kStochastic : 1.0);
  const torch::Tensor noise = uniform(tensor);
  if (format.is_integer())
    tensor.add_(noise.mul_(largest_beside(tensor)).mul_(size));
  else
    tensor.add_(noise.mul_(kMeanOfMantissas * size).mul_(tensor));
}

}  // namespace halftone
