// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/log_mel_spectrogram.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/hann_window.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/stft.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/module_scope.h"

namespace halftone {
namespace {

using torch::Tensor;

// Slaney's scale: 200 / 3 Hz a mel up to 1 kHz, then 27 mels for each factor of 6.4.
constexpr double kLinearStep = 200.0 / 3.0;
constexpr double kBreak = 1000.0;
constexpr double kBreakMel = kBreak / kLinearStep;
const double kLogStep = std::log(6.4) / 27.0;

double mel_of(double hertz) {
  return hertz < kBreak ? hertz / kLinearStep : kBreakMel + std::log(hertz / kBreak) / kLogStep;
}
double hertz_of(double mel) {
  return mel < kBreakMel ? mel * kLinearStep : kBreak * std::exp((mel - kBreakMel) * kLogStep);
}

double highest_frequency(const LogMelOptions& options) {
  const double nyquist = static_cast<double>(options.sample_rate) / 2;
  return options.f_max == 0.0 ? nyquist : options.f_max;
}

void check_options(const LogMelOptions& options) {
  if (options.sample_rate < 1 || options.n_fft < 2 || options.hop_length < 1 || options.n_mels < 1)
    throw UserError(fmt::format(
        "LogMelSpectrogram: expected sample_rate, hop_length and n_mels from 1 and n_fft from 2, "
        "got {}, {}, {} and {}",
        options.sample_rate, options.hop_length, options.n_mels, options.n_fft));
  const double highest = highest_frequency(options);
  if (!(options.f_min >= 0.0 && highest > options.f_min &&
        highest <= static_cast<double>(options.sample_rate) / 2))
    throw UserError(fmt::format(
        "LogMelSpectrogram: expected 0 <= f_min < f_max <= sample_rate / 2, got {} and {} at {}",
        options.f_min, highest, options.sample_rate));
}

/// The frequencies at which the triangles begin, peak and end.
std::vector<double> corners(const LogMelOptions& options) {
  const double low = mel_of(options.f_min), high = mel_of(highest_frequency(options));
  std::vector<double> hertz;
  for (std::int64_t i = 0; i < options.n_mels + 2; ++i)
    hertz.push_back(hertz_of(low + (high - low) * static_cast<double>(i) /
                                       static_cast<double>(options.n_mels + 1)));
  return hertz;
}

}  // namespace

Tensor mel_filters(const LogMelOptions& options) {
  check_options(options);
  const std::vector<double> corner = corners(options);
  const std::int64_t bins = options.n_fft / 2 + 1;
  const auto fp32 = torch::dtype(torch::kFloat).device(torch::kCPU);
  Tensor filters = at::zeros({options.n_mels, bins}, fp32);
  auto* weights = filters.data_ptr<float>();
  for (std::int64_t m = 0; m < options.n_mels; ++m) {
    const auto i = static_cast<std::size_t>(m);
    const double low = corner[i], peak = corner[i + 1], high = corner[i + 2];
    for (std::int64_t bin = 0; bin < bins; ++bin) {
      const double hertz =
          static_cast<double>(bin * options.sample_rate) / static_cast<double>(options.n_fft);
      const double height = std::min((hertz - low) / (peak - low), (high - hertz) / (high - peak));
      weights[m * bins + bin] = static_cast<float>(std::max(0.0, height) * 2.0 / (high - low));
    }
  }
  return filters;
}

LogMelSpectrogramImpl::LogMelSpectrogramImpl(const LogMelOptions& options)
    : options_(options), filters_(mel_filters(options)) {
  window_ = at::hann_window(options.n_fft, /*periodic=*/true, torch::kFloat);
}

Tensor LogMelSpectrogramImpl::forward(const Tensor& samples) {
  const ModuleScope scope(*this);
  HALFTONE_CHECK(samples.dim() == 2 && samples.is_floating_point(),
                 "[log_mel_spectrogram] expected samples (B, N), floating, got ", samples.sizes(),
                 " in ", samples.scalar_type());
  if (samples.size(1) <= options_.n_fft / 2)
    throw UserError(fmt::format(
        "LogMelSpectrogram: expected clips of more than {} samples, got {}; pad them with zeros",
        options_.n_fft / 2, samples.size(1)));
  const std::int64_t frames = samples.size(1) / options_.hop_length;
  if (samples.size(0) == 0 || frames == 0)
    return at::zeros({samples.size(0), options_.n_mels, frames},
                     samples.options().dtype(torch::kFloat));
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  // Not kept: a loader's workers call this at once.
  const Tensor window = window_.to(samples.device()), filters = filters_.to(samples.device());
  const Tensor spectrum =
      at::stft(samples.to(torch::kFloat), options_.n_fft, options_.hop_length, options_.n_fft,
               window, /*center=*/true, "reflect", /*normalized=*/false, /*onesided=*/true,
               /*return_complex=*/true);
  const Tensor power = spectrum.narrow(2, 0, frames).abs().square();
  const Tensor mel = filters.matmul(power).clamp_min(1e-10).log10();
  return (at::maximum(mel, mel.amax({1, 2}, /*keepdim=*/true) - 8.0) + 4.0) / 4.0;
}

}  // namespace halftone
