// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// Defaults are Whisper's (Radford et al. 2023).
struct LogMelOptions {
  std::int64_t sample_rate = 16000;  // per second
  std::int64_t n_fft = 400;          // samples of a window, which is a periodic Hann window
  std::int64_t hop_length = 160;     // samples from one window to the next
  std::int64_t n_mels = 80;
  double f_min = 0.0;  // Hz
  double f_max = 0.0;  // Hz; 0: half of sample_rate
};

/// Triangular filters on Slaney's mel scale (linear below 1 kHz, logarithmic above), each of area 1
/// (Slaney 1998): (n_mels, n_fft / 2 + 1) fp32. Throws UserError for options out of range.
torch::Tensor mel_filters(const LogMelOptions& options);

/// The logarithm of the power that a sound has in each band of mel_filters(), as Whisper's models
/// hear it: windows centred on each hop, the ends reflected, the last window left out; log10 of at
/// least 1e-10, at most 8 below the clip's loudest value, (that + 4) / 4. Computed in fp32 whatever
/// the recipe, and without parameters; a true 16-bit precision does not round the filters. (In such
/// a recipe the Trainer rounds a batch's samples: spectrograms are better made by the loader.)
class LogMelSpectrogramImpl : public torch::nn::Module {
 public:
  explicit LogMelSpectrogramImpl(const LogMelOptions& options = {});

  /// samples (B, N) floating, in -1..1, N above n_fft / 2; returns (B, n_mels, N / hop_length)
  /// fp32. Threads may call it at once. Throws UserError for shorter clips.
  torch::Tensor forward(const torch::Tensor& samples);

 private:
  LogMelOptions options_;
  torch::Tensor window_;  // no buffers: those take the dtype of the precision
  torch::Tensor filters_;
};
TORCH_MODULE(LogMelSpectrogram);

}  // namespace halftone
