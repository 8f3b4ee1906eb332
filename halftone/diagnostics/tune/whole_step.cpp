// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/tune/whole_step.h"

#include <algorithm>
#include <cmath>

namespace halftone {
namespace {

MemoryPolicy recomputing(bool blocks) {
  MemoryPolicy memory;
  memory.recompute_blocks = blocks;
  return memory;
}

bool is_finite(const StepGradients& step) {
  return std::isfinite(step.loss) &&
         std::all_of(step.gradients.begin(), step.gradients.end(), [](const torch::Tensor& one) {
           return !one.defined() || one.isfinite().all().item<bool>();
         });
}

}  // namespace

std::unique_ptr<MixedPrecision> precision_for_step(const TrainingStep& step,
                                                   const PrecisionPolicy& policy,
                                                   torch::Device device, bool recompute_blocks) {
  constexpr double kLargest = 65536.0, kFactor = 16.0;
  std::unique_ptr<MixedPrecision> precision;
  for (double scale = kLargest; scale >= 1.0; scale /= kFactor) {
    precision = std::make_unique<MixedPrecision>(policy, GradScalerOptions{.init_scale = scale},
                                                 device, recomputing(recompute_blocks));
    precision->convert_module(*step.network);
    if (!policy.loss_scaling || is_finite(step_gradients(step, *precision))) break;
  }
  return precision;
}

GradientReference exact_gradients(const TrainingStep& step, torch::Device device,
                                  bool recompute_blocks) {
  const auto precision = precision_for_step(step, PrecisionPolicy(), device, recompute_blocks);
  return GradientReference(step_gradients(step, *precision));
}

double sampling_noise(const GradientReference& exact, const TrainingStep& other,
                      torch::Device device, std::int64_t micro_batches) {
  const auto precision = precision_for_step(other, PrecisionPolicy(), device, false);
  const double distance = exact.error_of(step_gradients(other, *precision)).total;
  return distance / std::sqrt(2.0 * static_cast<double>(micro_batches));
}

}  // namespace halftone
