// SPDX-License-Identifier: Apache-2.0
#include "halftone/media/picture_quality.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/conv2d.h>

#include "halftone/core/error.h"

namespace halftone {
namespace {

using torch::Tensor;

constexpr std::int64_t kWindow = 11;
constexpr double kDeviation = 1.5;
constexpr double kC1 = 0.01 * 0.01;
constexpr double kC2 = 0.03 * 0.03;

void check_pairs(const Tensor& pictures, const Tensor& reference) {
  HALFTONE_CHECK(pictures.is_floating_point() && reference.is_floating_point() &&
                     pictures.dim() == 4 && pictures.sizes() == reference.sizes(),
                 "[picture_quality] expected two floating (N, C, H, W) of one shape, got ",
                 pictures.scalar_type(), " ", pictures.sizes(), " and ", reference.scalar_type(),
                 " ", reference.sizes());
}

/// The weighted means of all windows of each channel.
Tensor window_means(const Tensor& planes) {
  constexpr std::int64_t kMiddle = kWindow / 2;
  const Tensor at = at::arange(kWindow, planes.options()) - kMiddle;
  Tensor weights = (at.square() / (-2 * kDeviation * kDeviation)).exp();
  weights = weights / weights.sum();
  const Tensor across = at::conv2d(planes, weights.view({1, 1, 1, kWindow}));
  return at::conv2d(across, weights.view({1, 1, kWindow, 1}));
}

}  // namespace

Tensor peak_signal_to_noise(const Tensor& pictures, const Tensor& reference) {
  check_pairs(pictures, reference);
  const torch::NoGradGuard no_grad;
  const Tensor difference = pictures.to(torch::kDouble) - reference.to(torch::kDouble);
  return difference.square().mean({1, 2, 3}).log10() * -10;
}

Tensor structural_similarity(const Tensor& pictures, const Tensor& reference) {
  check_pairs(pictures, reference);
  HALFTONE_CHECK(pictures.size(2) >= kWindow && pictures.size(3) >= kWindow,
                 "[structural_similarity] expected sides from ", kWindow, ", got ",
                 pictures.sizes());
  const torch::NoGradGuard no_grad;
  const Tensor a = pictures.to(torch::kDouble).flatten(0, 1).unsqueeze(1);
  const Tensor b = reference.to(torch::kDouble).flatten(0, 1).unsqueeze(1);
  const Tensor mean_a = window_means(a), mean_b = window_means(b);
  const Tensor both = mean_a * mean_b, squares = mean_a.square() + mean_b.square();
  const Tensor covariance = window_means(a * b) - both;
  const Tensor variances = window_means(a.square()) + window_means(b.square()) - squares;
  const Tensor similarity =
      (2 * both + kC1) * (2 * covariance + kC2) / ((squares + kC1) * (variances + kC2));
  return similarity.mean({1, 2, 3}).view({pictures.size(0), pictures.size(1)}).mean(1);
}

}  // namespace halftone
