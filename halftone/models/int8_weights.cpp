// SPDX-License-Identifier: Apache-2.0
#include "halftone/models/int8_weights.h"

#include <fmt/format.h>

#include "halftone/core/error.h"
#include "halftone/kernels/gemm/int8_reference.h"

namespace halftone {
namespace {

using torch::Tensor;

constexpr double kLargestInt8 = 127;

void check_scales(const StateDict& file, const std::string& name, const std::string& source) {
  const Tensor& integers = file.meta(name);
  const std::string scale_name = name + kScaleSuffix;
  if (!file.tensors.contains(scale_name))
    throw UserError(fmt::format(
        "{}: tensor '{}' holds integers, but there is no '{}' that says what they stand for",
        source, name, scale_name));
  const Tensor& scales = file.meta(scale_name);
  const bool fits = integers.dim() == 2 && scales.dim() == 2 && scales.size(1) == 1 &&
                    scales.size(0) == integers.size(0) && scales.is_floating_point();
  if (!fits)
    throw UserError(fmt::format(
        "{}: tensor '{}' has the shape {}, expected one scale for each of the rows of '{}', {}",
        source, scale_name, fmt::join(scales.sizes(), " x "), name,
        fmt::join(integers.sizes(), " x ")));
}

}  // namespace

Int8Weight quantize_weight(const Tensor& weight) {
  HALFTONE_CHECK(weight.dim() == 2, "[int8_weights] expected a matrix, got ", weight.sizes());
  const ReferenceInt8 made = quantize_reference(
      weight.detach().to(torch::kCPU, torch::kFloat).contiguous(), kLargestInt8, {});
  HALFTONE_CHECK(made.scales.isfinite().all().item<bool>(),
                 "[int8_weights] expected finite numbers only");
  return {made.integers, made.scales.unsqueeze(1)};
}

StateDict restore_int8_weights(const StateDict& file, const std::string& source) {
  StateDict restored = file;
  for (const auto& [name, outline] : file.tensors) {
    if (outline.scalar_type() != torch::kChar) continue;
    check_scales(file, name, source);
    const std::string scale_name = name + kScaleSuffix;
    const auto read = [file, name = name, scale_name] {
      return file.tensor(name).to(torch::kFloat) * file.tensor(scale_name).to(torch::kFloat);
    };
    const bool waits = file.lazy.contains(name);
    restored.tensors[name] = waits ? outline.to(torch::kFloat) : read();
    if (waits) restored.lazy[name] = read;
    restored.tensors.erase(scale_name);
    restored.lazy.erase(scale_name);
  }
  return restored;
}

}  // namespace halftone
