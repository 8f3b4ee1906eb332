// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/clip.h"

#include <cmath>

#include "halftone/core/error.h"
#include "halftone/kernels/optimizer/gradient_stats.h"

namespace halftone {
namespace {

// The stored elements: a sparse gradient's values, with duplicates added up first. Writing to them
// does not count as a new version: to AdamW, what no backward pass has written to is no gradient.
torch::Tensor dense_elements(const torch::Tensor& parameter) {
  torch::Tensor& gradient = parameter.mutable_grad();
  if (!gradient.is_sparse()) return gradient.variable_data();
  if (!gradient.is_coalesced()) gradient = gradient.coalesce();
  return gradient._values();
}

bool has_stats_kernel(const torch::Tensor& elements) {
  const torch::ScalarType dtype = elements.scalar_type();
  return elements.is_contiguous() &&
         (dtype == torch::kFloat || dtype == torch::kBFloat16 || dtype == torch::kHalf);
}

// Both parts of complex numbers.
torch::Tensor real_elements(const torch::Tensor& elements) {
  return elements.is_complex() ? at::view_as_real(elements) : elements;
}

// An fp64 scalar. LibTorch's norm would make a copy of the gradient in fp64.
torch::Tensor norm_of(const torch::Tensor& elements, double norm_type) {
  if (elements.numel() == 0) return torch::zeros({}, elements.options().dtype(torch::kDouble));
  const torch::Tensor parts = real_elements(elements);
  if (norm_type == 2.0 && has_stats_kernel(parts))
    return gradient_stats(parts.view(-1), {{0, parts.numel()}}).norm_squared[0].sqrt();
  const torch::ScalarType dtype = elements.is_complex() ? torch::kComplexDouble : torch::kDouble;
  return at::linalg_vector_norm(elements, norm_type, {}, /*keepdim=*/false, dtype);
}

// 16-bit gradients are multiplied in fp32: the factor may be below the least number of fp16.
void multiply_(torch::Tensor& gradient, const torch::Tensor& factor) {
  if (at::isReducedFloatingType(gradient.scalar_type()))
    gradient.copy_(gradient.to(torch::kFloat).mul_(factor.to(torch::kFloat)));
  else
    gradient.mul_(factor);
}

}  // namespace

torch::Tensor clip_factor(const torch::Tensor& norm, double max_norm) {
  constexpr double kNormEpsilon = 1e-6;
  if (std::isinf(max_norm)) return torch::ones_like(norm);
  return (max_norm / (norm + kNormEpsilon)).clamp_max(1.0);
}

torch::Tensor clip_grad_norm_(const std::vector<torch::Tensor>& parameters, double max_norm,
                              const ClipOptions& options) {
  HALFTONE_CHECK(max_norm >= 0.0, "[clip_grad_norm] expected max_norm >= 0, got ", max_norm);
  HALFTONE_CHECK(options.norm_type > 0.0, "[clip_grad_norm] expected norm_type > 0, got ",
                 options.norm_type);
  const torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> gradients;
  for (const torch::Tensor& parameter : parameters)
    if (parameter.grad().defined()) gradients.push_back(dense_elements(parameter));
  if (gradients.empty()) return torch::zeros({}, torch::kDouble);

  const torch::Device device = gradients.front().device();
  std::vector<torch::Tensor> norms;
  norms.reserve(gradients.size());
  for (const torch::Tensor& gradient : gradients)
    norms.push_back(norm_of(gradient, options.norm_type).to(device, true));
  const torch::Tensor norm = at::linalg_vector_norm(torch::stack(norms), options.norm_type);
  if (options.error_if_nonfinite)
    HALFTONE_CHECK(std::isfinite(norm.item<double>()),
                   "[clip_grad_norm] the norm of the gradients"
                   " is ",
                   norm.item<double>(),
                   ", so they can't be clipped: skip the step, or pass "
                   "error_if_nonfinite = false");
  if (std::isinf(max_norm)) return norm;
  const torch::Tensor factor =
      at::where(norm.isfinite(), clip_factor(norm, max_norm), torch::ones_like(norm));
  // On the CPU a look costs nothing, and spares a pass that multiplies by 1.
  if (device.is_cpu() && factor.item<double>() == 1.0) return norm;
  for (torch::Tensor& gradient : gradients) multiply_(gradient, factor.to(gradient.device(), true));
  return norm;
}

void clip_grad_value_(const std::vector<torch::Tensor>& parameters, double max_value) {
  HALFTONE_CHECK(max_value >= 0.0, "[clip_grad_value] expected max_value >= 0, got ", max_value);
  const torch::NoGradGuard no_grad;
  for (const torch::Tensor& parameter : parameters) {
    if (!parameter.grad().defined()) continue;
    torch::Tensor elements = real_elements(dense_elements(parameter));
    elements.copy_(at::where(elements.isfinite(), elements.clamp(-max_value, max_value), elements));
  }
}

}  // namespace halftone
