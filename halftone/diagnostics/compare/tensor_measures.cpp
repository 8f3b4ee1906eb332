// SPDX-License-Identifier: Apache-2.0
#include <ATen/ops/bincount.h>
#include <ATen/ops/dot.h>
#include <ATen/ops/frexp.h>
#include <ATen/ops/ones_like.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "halftone/diagnostics/compare/tensor_measures_impl.h"
#include "halftone/kernels/optimizer/gradient_exponents.h"

namespace halftone {
namespace {

using torch::Tensor;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::int64_t kLeastExponent = -200;

Tensor flat64(const Tensor& tensor) { return tensor.detach().flatten().to(torch::kDouble); }

/// Both as fp64, with zero where one of them is not finite.
struct FinitePair {
  FinitePair(const Tensor& a_in, const Tensor& b_in) : a(flat64(a_in)), b(flat64(b_in)) {
    const Tensor finite = a.isfinite() & b.isfinite();
    any = finite.any().item<bool>();
    a = a.where(finite, a.new_zeros({}));
    b = b.where(finite, b.new_zeros({}));
  }
  Tensor a, b;
  bool any = false;  // value that is finite in both
};

double l2_norm(const Tensor& vector) { return at::dot(vector, vector).sqrt().item<double>(); }

double cosine(const FinitePair& pair) {
  const double lengths = l2_norm(pair.a) * l2_norm(pair.b);
  if (lengths == 0) return l2_norm(pair.a) == l2_norm(pair.b) ? 1.0 : 0.0;
  return std::clamp(at::dot(pair.a, pair.b).item<double>() / lengths, -1.0, 1.0);
}

/// In units of the last place that the format has at the reference's value.
double largest_ulp(const FinitePair& pair, const NumberFormat& format) {
  const Tensor mantissa = std::get<0>(at::frexp(pair.b));  // 0.5 <= |m| < 1
  const Tensor power = (pair.b / mantissa).where(pair.b != 0, pair.b.new_zeros({})) / 2;
  const double least = format.is_integer() ? 0.0 : format.smallest();
  const Tensor ulp = (power * std::ldexp(1.0, -format.mantissa_bits)).clamp_min(least);
  const Tensor error = (pair.a - pair.b).abs();
  return (error / ulp).where(error > 0, error.new_zeros({})).max().item<double>();
}

double share_of(const Tensor& counted) { return counted.to(torch::kDouble).mean().item<double>(); }

/// By comparison with the format's limits: a pass of storing takes ten times as long.
void measure_storage(TensorComparison& comparison, const Tensor& reference,
                     const NumberFormat& format, double scale) {
  if (format.scaling != NumberFormat::Scaling::kNone) {
    const Tensor stored = stored_as(format, reference);
    comparison.flush_if_stored_share = share_of((stored == 0) & (reference != 0));
    return;
  }
  const Tensor sizes = flat64(reference).abs() * scale;
  comparison.flush_if_stored_share = share_of((sizes <= format.flushed_up_to()) & (sizes > 0));
  comparison.overflow_if_stored_share =
      share_of((sizes >= format.overflows_from()) & sizes.isfinite());
}

void measure_range(TensorComparison& comparison, const Tensor& reference) {
  const Tensor sizes = flat64(reference).abs();
  const Tensor counted = sizes.isfinite() & (sizes > 0);
  if (!counted.any().item<bool>()) return;
  comparison.max_abs = sizes.where(counted, sizes.new_zeros({})).max().item<double>();
  comparison.min_abs = sizes.where(counted, sizes.new_full({}, kInfinity)).min().item<double>();
}

}  // namespace

double relative_error(const Tensor& a, const Tensor& b) {
  if (a.numel() == 0) return 0.0;
  const FinitePair pair(a, b);
  if (!pair.any && b.isfinite().any().item<bool>()) return kInfinity;
  const double difference = l2_norm(pair.a - pair.b);
  if (difference == 0) return 0.0;
  const double length = l2_norm(pair.b);
  return length > 0 ? difference / length : kInfinity;
}

double measure(TensorComparison& comparison, const Tensor& judged, const Tensor& reference,
               const NumberFormat& format, double scale) {
  comparison.exponents = exponents_of(reference);
  if (reference.numel() == 0) return 0.0;
  measure_range(comparison, reference);
  const FinitePair pair(judged, reference);
  comparison.relative_error = relative_error(judged, reference);
  comparison.cosine = cosine(pair);
  comparison.largest_ulp = largest_ulp(pair, format);
  const Tensor flushed = (judged == 0) & (reference != 0);
  comparison.flushed_share = share_of(flushed);
  comparison.overflowed_share = share_of(~judged.isfinite() & reference.isfinite());
  measure_storage(comparison, reference, format, scale);
  comparison.norm = l2_norm(pair.b);
  const double length = comparison.norm;
  return length > 0 ? l2_norm(pair.b.where(flushed.flatten(), pair.b.new_zeros({}))) / length : 0.0;
}

double MagnitudeSpectrum::error_below_normal(const NumberFormat& format, int scale) const {
  const int flushed_from = std::ilogb(format.flushed_up_to());
  const double step = std::ldexp(format.smallest(), -scale);
  double error = 0, total = 0;
  for (std::size_t i = 0; i < energy.size(); ++i) {
    const int exponent = first + static_cast<int>(i) + scale;
    total += energy[i];
    if (exponent < flushed_from)
      error += energy[i];
    else if (exponent < format.min_exponent)
      error += counts[i] * step * step / 12;
  }
  return total > 0 ? std::sqrt(error / total) : 0.0;
}

MagnitudeSpectrum magnitude_spectrum(const Tensor& values) {
  const Tensor wide = flat64(values);
  const Tensor used = wide.masked_select(wide.isfinite() & (wide != 0));
  if (used.numel() == 0) return {};
  const Tensor exponent = (std::get<1>(at::frexp(used)) - 1).clamp_min(kLeastExponent);
  const auto first = exponent.min().item<std::int64_t>();
  const Tensor bins = exponent - first;
  const auto sums = [&](const Tensor& weights) {
    const Tensor sum = at::bincount(bins, weights).cpu();
    const auto* begin = sum.const_data_ptr<double>();
    return std::vector<double>(begin, begin + sum.numel());
  };
  return {.first = static_cast<int>(first),
          .counts = sums(at::ones_like(used)),
          .energy = sums(used.square())};
}

ExponentHistogram exponents_of(const Tensor& values) {
  ExponentHistogram histogram;
  if (values.numel() == 0) return histogram;
  const Tensor counts = exponent_histogram(values.detach().contiguous()).cpu();
  const auto* count = counts.const_data_ptr<std::int64_t>();
  histogram.zeros = count[0];
  histogram.non_finite = count[kExponentBins - 1];
  const std::int64_t* const begin = count + 1;
  const std::int64_t* const end = count + kExponentBins - 1;
  const auto is_used = [](std::int64_t n) { return n > 0; };
  const std::int64_t* const first = std::find_if(begin, end, is_used);
  if (first == end) return histogram;
  const std::int64_t* last = end;
  while (last[-1] == 0) --last;
  histogram.first = static_cast<int>(first - count - exponent_bin(0));
  histogram.counts.assign(first, last);
  return histogram;
}

}  // namespace halftone
