// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/tune/step_gradients.h"

#include <cmath>
#include <limits>
#include <utility>

#include "halftone/core/device.h"
#include "halftone/core/error.h"
#include "halftone/core/stopwatch.h"
#include "halftone/inspect/parameter_gradients_impl.h"
#include "halftone/kernels/optimizer/gradient_stats.h"

namespace halftone {
namespace {

using torch::Tensor;

double norm_of(const Tensor& gradient) {
  const RangeStats stats = gradient_stats(gradient.flatten(), {{0, gradient.numel()}});
  return std::sqrt(stats.norm_squared.item<double>());
}

}  // namespace

StepGradients step_gradients(const TrainingStep& step, MixedPrecision& precision) {
  const Stopwatch watch;
  const Tensor loss = step.loss(precision);
  StepGradients result{.loss = loss.item<double>()};
  result.gradients = parameter_gradients(*step.network, precision.scaled(loss));
  synchronize(precision.device());
  result.seconds = watch.seconds();
  const double scale = precision.loss_scale().value_or(1.0);
  if (scale != 1.0)
    for (Tensor& gradient : result.gradients)
      if (gradient.defined()) gradient = gradient.div(scale);
  return result;
}

GradientReference::GradientReference(StepGradients reference) : reference_(std::move(reference)) {
  for (const Tensor& gradient : reference_.gradients)
    norms_.push_back(gradient.defined() ? norm_of(gradient) : 0.0);
}

GradientError GradientReference::error_of(StepGradients measured) const {
  HALFTONE_CHECK(measured.gradients.size() == norms_.size(),
                 "[tune] expected gradients of one network, got ", measured.gradients.size(),
                 " and ", norms_.size());
  GradientError error;
  double sum = 0, numbers = 0;
  for (std::size_t i = 0; i < norms_.size(); ++i) {
    Tensor gradient = std::exchange(measured.gradients[i], {});
    if (norms_[i] == 0.0 || !gradient.defined()) {
      error.of_parameters.push_back(0.0);
      continue;
    }
    const Tensor& exact = reference_.gradients[i];
    const double relative = norm_of(gradient.to(exact.scalar_type()).sub_(exact)) / norms_[i];
    error.of_parameters.push_back(relative);
    sum += relative * relative * static_cast<double>(exact.numel());
    numbers += static_cast<double>(exact.numel());
  }
  error.total = numbers > 0 ? std::sqrt(sum / numbers) : 0.0;
  if (!std::isfinite(error.total) || !std::isfinite(measured.loss))
    error.total = std::numeric_limits<double>::infinity();
  return error;
}

}  // namespace halftone
