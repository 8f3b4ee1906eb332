// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/compare/number_format.h"

#include <ATen/ops/dot.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "halftone/core/error.h"

namespace halftone {
namespace {

using torch::Tensor;

constexpr double kInt8Steps = 127;

/// The formats that LibTorch has a dtype for.
constexpr std::array<std::pair<const char*, torch::ScalarType>, 5> kDtypes{
    {{"fp32", torch::kFloat},
     {"bf16", torch::kBFloat16},
     {"fp16", torch::kHalf},
     {"fp8-e4m3", torch::kFloat8_e4m3fn},
     {"fp8-e5m2", torch::kFloat8_e5m2}}};

torch::ScalarType dtype_of(const NumberFormat& format) {
  for (const auto& [name, dtype] : kDtypes)
    if (format.name == name) return dtype;
  return torch::kFloat;
}

/// Of a tensor without inf and nan; 0 for an empty one.
double largest_finite(const Tensor& values) {
  if (values.numel() == 0) return 0.0;
  return values.abs().where(values.isfinite(), values.new_zeros({})).max().item<double>();
}

/// LibTorch's casts round to nearest, ties to even; beyond the range they make inf, nan or the
/// largest number, as the format has it.
Tensor on_grid(const NumberFormat& format, const Tensor& values) {
  const Tensor stored = values.to(dtype_of(format)).to(torch::kFloat);
  const Tensor inf = values.new_full({}, std::numeric_limits<double>::infinity());
  const Tensor is_beyond = values.abs() >= format.overflows_from();
  return stored.where(~is_beyond, inf.copysign(values));
}

Tensor stored_as_integers(const Tensor& values) {
  const Tensor largest = values.dim() == 0 ? values.abs() : values.abs().amax(-1, /*keepdim=*/true);
  const Tensor step = (largest / kInt8Steps).clamp_min(std::numeric_limits<float>::min());
  return (values / step).round().clamp(-kInt8Steps, kInt8Steps) * step;
}

/// 2-norm, in fp64: the squares of gradients are below fp32's range.
double norm_of(const Tensor& values) {
  const Tensor wide = values.flatten().to(torch::kDouble);
  return at::dot(wide, wide).sqrt().item<double>();
}

double share_of(const Tensor& mask, double count) { return mask.sum().item<double>() / count; }

}  // namespace

double NumberFormat::smallest() const {
  return is_integer() ? 1 / kInt8Steps : std::ldexp(1.0, min_exponent - mantissa_bits);
}

double NumberFormat::overflows_from() const {
  return max + std::ldexp(1.0, std::ilogb(max) - mantissa_bits - 1);
}

double NumberFormat::unit_roundoff() const {
  return is_integer() ? 0.5 / kInt8Steps : std::ldexp(1.0, -mantissa_bits - 1);
}

const std::vector<NumberFormat>& number_formats() {
  using Scaling = NumberFormat::Scaling;
  static const std::vector<NumberFormat> formats = {
      {"fp32", 23, -126, std::numeric_limits<float>::max(), Scaling::kNone},
      {"bf16", 7, -126, std::ldexp(255.0, 120), Scaling::kNone},
      {"fp16", 10, -14, 65504, Scaling::kNone},
      {"fp8-e4m3", 3, -6, 448, Scaling::kPerTensor},
      {"fp8-e5m2", 2, -14, 57344, Scaling::kPerTensor},
      {"int8", 7, 0, kInt8Steps, Scaling::kPerRow}};
  return formats;
}

const NumberFormat& number_format(std::string_view name) {
  const auto& formats = number_formats();
  const auto found = std::find_if(formats.begin(), formats.end(),
                                  [&](const NumberFormat& format) { return format.name == name; });
  if (found != formats.end()) return *found;
  std::vector<std::string> names;
  for (const NumberFormat& format : formats) names.push_back(format.name);
  throw UserError(
      fmt::format("expected a number format out of {}, got '{}'", fmt::join(names, ", "), name));
}

std::optional<NumberFormat> number_format_of(torch::ScalarType dtype) {
  for (const auto& [name, its_dtype] : kDtypes)
    if (its_dtype == dtype) return number_format(name);
  return std::nullopt;
}

Tensor stored_as(const NumberFormat& format, const Tensor& values, double scale) {
  const Tensor fp32 = values.detach().to(torch::kFloat);
  if (values.numel() == 0) return fp32;
  if (format.is_integer()) return stored_as_integers(fp32);
  if (format.scaling == NumberFormat::Scaling::kPerTensor) {
    const double largest = largest_finite(fp32);
    scale = largest > 0 ? format.max / largest : 1.0;
  }
  return on_grid(format, fp32 * scale) / scale;
}

StorageLoss storage_loss(const NumberFormat& format, const Tensor& values, double scale) {
  const Tensor fp32 = values.detach().to(torch::kFloat);
  const Tensor counted = fp32.isfinite() & (fp32 != 0);
  const auto count = counted.sum().item<double>();
  if (count == 0) return {};
  const Tensor stored = stored_as(format, fp32, scale);
  const Tensor zero = fp32.new_zeros({});
  const Tensor stays = counted & stored.isfinite();
  const Tensor flushed = counted & (stored == 0);
  const double norm = norm_of(fp32.where(stays, zero));
  const auto over_norm = [&](const Tensor& part) { return norm > 0 ? norm_of(part) / norm : 0.0; };
  return {.relative_error = over_norm((stored - fp32).where(stays, zero)),
          .flushed_share = share_of(flushed, count),
          .overflowed_share = share_of(counted & ~stored.isfinite(), count),
          .flushed_norm = over_norm(fp32.where(flushed, zero))};
}

}  // namespace halftone
