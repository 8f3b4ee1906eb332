// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>

#include "halftone/media/sound.h"

namespace halftone {

struct WavOptions {
  std::int64_t rate = 16'000;  ///< resampled to it (sound.h) where the file's differs; 0: as it is
  bool mono = true;            ///< the mean of all channels; else (C, T), also of one channel
  std::int64_t first = 0;      ///< frame of the file that is read first
  std::int64_t frames = -1;    ///< of the file; -1: all that follow
  std::int64_t max_frames = 1LL << 28;  ///< more to read is refused
};

/// The sound of a WAV file (RIFF) of PCM with 8 to 32 bits, fp32, fp64, A-law or mu-law. Throws
/// UserError that names the file and the place when it is missing, damaged, cut off, empty, in
/// another coding, or has samples that are not finite; memory is bounded by the file's size.
Sound read_wav(const std::filesystem::path& path, const WavOptions& options = {});

/// Writes float32 (T) or (C, T) as PCM of 16 bits: samples are multiplied by 32,768, rounded to
/// nearest even and clamped. What read_wav() gave of such a file at its own rate is written as the
/// same samples. The file appears whole or not at all. Throws UserError when it can't be written.
void write_wav(const std::filesystem::path& path, const Sound& sound);

}  // namespace halftone
