// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

struct Sound {
  torch::Tensor samples;  ///< float32 (T), or (C, T) of several channels; -1..1
  std::int64_t rate = 0;  ///< samples per second
};

/// `sound` at another rate: ceil(T * rate / sound.rate) samples by libsamplerate's best sinc
/// filter, each channel alone. REQUIRES both rates within 1,000 to 768,000.
Sound resampled_sound(const Sound& sound, std::int64_t rate);

}  // namespace halftone
