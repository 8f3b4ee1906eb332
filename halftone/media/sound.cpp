// SPDX-License-Identifier: Apache-2.0
#include "halftone/media/sound.h"

#include <ATen/ops/zeros.h>
#include <samplerate.h>

#include "halftone/core/error.h"

namespace halftone {
namespace {

constexpr std::int64_t kLeastRate = 1'000;
constexpr std::int64_t kMostRate = 768'000;

bool is_sound_rate(std::int64_t rate) { return rate >= kLeastRate && rate <= kMostRate; }

void resample_channel(const torch::Tensor& from, const torch::Tensor& to, double ratio) {
  SRC_DATA data{};
  data.data_in = from.const_data_ptr<float>();
  data.input_frames = from.size(0);
  data.data_out = to.data_ptr<float>();
  data.output_frames = to.size(0);
  data.src_ratio = ratio;
  const int error = src_simple(&data, SRC_SINC_BEST_QUALITY, 1);
  HALFTONE_CHECK(error == 0, "[sound] libsamplerate: ", src_strerror(error));
}

}  // namespace

Sound resampled_sound(const Sound& sound, std::int64_t rate) {
  HALFTONE_CHECK(is_sound_rate(rate) && is_sound_rate(sound.rate),
                 "[sound] expected rates from 1000 to 768000, got ", sound.rate, " and ", rate);
  HALFTONE_CHECK(sound.samples.scalar_type() == torch::kFloat &&
                     (sound.samples.dim() == 1 || sound.samples.dim() == 2),
                 "[sound] expected float32 (T) or (C, T), got ", sound.samples.sizes());
  if (rate == sound.rate || sound.samples.numel() == 0) return {sound.samples, rate};
  std::vector<std::int64_t> shape = sound.samples.sizes().vec();
  shape.back() = (shape.back() * rate + sound.rate - 1) / sound.rate;
  const torch::Tensor from = sound.samples.reshape({-1, sound.samples.size(-1)}).contiguous();
  const torch::Tensor to = at::zeros({from.size(0), shape.back()}, torch::kFloat);
  const double ratio = static_cast<double>(rate) / static_cast<double>(sound.rate);
  for (std::int64_t channel = 0; channel < from.size(0); ++channel)
    resample_channel(from[channel], to[channel], ratio);
  return {to.reshape(shape), rate};
}

}  // namespace halftone
