// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/tune/step_gradients.h"

#include <torch/csrc/autograd/autograd.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "halftone/core/device.h"
#include "halftone/core/error.h"
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
  const auto start = std::chrono::steady_clock::now();
  std::vector<Tensor> learning;
  const std::vector<Tensor> parameters = step.network->parameters();
  for (const Tensor& parameter : parameters)
    if (parameter.requires_grad()) learning.push_back(parameter);
  const Tensor loss = step.loss(precision);
  StepGradients result{.loss = loss.item<double>()};
  const std::vector<Tensor> found =
      torch::autograd::grad({precision.scaled(loss)}, learning, {}, /*retain_graph=*/{},
                            /*create_graph=*/false, /*allow_unused=*/true);
  synchronize(precision.device());
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double scale = precision.loss_scale().value_or(1.0);
  auto next = found.begin();
  for (const Tensor& parameter : parameters) {
    Tensor gradient = parameter.requires_grad() ? *next++ : Tensor();
    if (gradient.defined() && scale != 1.0) gradient = gradient.div(scale);
    result.gradients.push_back(std::move(gradient));
  }
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
