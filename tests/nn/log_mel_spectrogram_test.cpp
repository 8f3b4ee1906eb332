// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/log_mel_spectrogram.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#include "halftone/autocast/autocast.h"
#include "halftone/core/error.h"
#include "support/golden_file.h"
#include "support/message_of.h"

namespace halftone::log_mel_spectrogram_test {
namespace {

using testing::HasSubstr;
using torch::Tensor;

double largest_difference(const Tensor& a, const Tensor& b) {
  return (a - b).abs().max().item<double>();
}

TEST(LogMelSpectrogram, EqualsTransformersWhisperFeatures) {
  const auto golden = test::read_golden("log_mel.safetensors").tensors;
  LogMelSpectrogram spectrogram;
  for (const auto& [clips, features] :
       {std::pair("clips", "features"), std::pair("odd_clip", "odd_features")}) {
    const Tensor found = spectrogram(golden.at(clips));
    ASSERT_EQ(found.sizes(), golden.at(features).sizes());
    // fp64 there; a bin may be 8 orders of magnitude below the loudest.
    EXPECT_LT(largest_difference(found, golden.at(features)), 1e-3);
    EXPECT_LT((found - golden.at(features)).abs().mean().item<double>(), 1e-5);
  }
  const Tensor filters = mel_filters({}).index_select(0, torch::tensor({0, 40, 79}));
  EXPECT_LT(largest_difference(filters, golden.at("filters")), 1e-8);
}

TEST(LogMelSpectrogram, AToneIsLoudestInItsBand) {
  LogMelSpectrogram spectrogram;
  const Tensor filters = mel_filters({});
  for (const double hertz : {440.0, 1000.0, 3500.0}) {
    const Tensor time = torch::arange(16000, torch::kDouble) / 16000;
    const Tensor tone = (time * (2 * M_PI * hertz)).sin().to(torch::kFloat).unsqueeze(0);
    const auto band = spectrogram(tone)[0].select(1, 50).argmax().item<std::int64_t>();
    const double peak = 40.0 * filters[band].argmax().item<double>();  // Hz
    EXPECT_NEAR(peak, hertz, 0.05 * hertz + 40);
  }
}

TEST(LogMelSpectrogram, EveryFilterHasItsArea) {
  for (const LogMelOptions& options :
       {LogMelOptions{.n_fft = 4096, .n_mels = 40},
        LogMelOptions{
            .sample_rate = 22050, .n_fft = 4096, .n_mels = 64, .f_min = 100, .f_max = 8000}}) {
    const double step = static_cast<double>(options.sample_rate) / 4096;
    const Tensor areas = mel_filters(options).sum(1) * step;
    EXPECT_LT(largest_difference(areas, torch::ones_like(areas)), 0.05);
  }
}

TEST(LogMelSpectrogram, NoRecipeRoundsIt) {
  torch::manual_seed(1);
  LogMelSpectrogram spectrogram;
  const Tensor clip = torch::randn({2, 1600}) * 0.1;
  const Tensor expected = spectrogram(clip);
  EXPECT_TRUE(spectrogram->parameters().empty());
  EXPECT_TRUE(spectrogram->buffers().empty());
  spectrogram->to(torch::kBFloat16);
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  EXPECT_TRUE(spectrogram(clip).equal(expected));
  EXPECT_EQ(spectrogram(clip.to(torch::kHalf)).scalar_type(), torch::kFloat);
}

TEST(LogMelSpectrogram, ClipsStandAloneAndSilenceIsFlat) {
  torch::manual_seed(2);
  LogMelSpectrogram spectrogram;
  Tensor clips = torch::randn({3, 1600}) * 0.1;
  clips[1].zero_();
  clips[2][800] = std::numeric_limits<float>::quiet_NaN();
  const Tensor all = spectrogram(clips);
  EXPECT_LT(largest_difference(all[0], spectrogram(clips.narrow(0, 0, 1))[0]), 1e-6);
  EXPECT_LT(largest_difference(all[1], torch::full({80, 10}, (-10.0 + 4.0) / 4.0)), 1e-6);
  EXPECT_FALSE(all[2].isfinite().all().item<bool>());
  EXPECT_EQ(spectrogram(clips.narrow(0, 0, 0)).sizes(), (std::vector<std::int64_t>{0, 80, 10}));
}

TEST(LogMelSpectrogram, ClipsShorterThanAHopHaveNoFrames) {
  LogMelSpectrogram spectrogram(LogMelOptions{.hop_length = 500});
  EXPECT_EQ(spectrogram(torch::ones({3, 499})).sizes(), (std::vector<std::int64_t>{3, 80, 0}));
  EXPECT_EQ(spectrogram(torch::ones({3, 500})).sizes(), (std::vector<std::int64_t>{3, 80, 1}));
}

TEST(LogMelSpectrogram, WorkersMayShareIt) {
  torch::manual_seed(3);
  LogMelSpectrogram spectrogram;
  const Tensor clips = torch::randn({2, 1600}) * 0.1;
  const Tensor expected = spectrogram(clips);
  std::vector<Tensor> found(4);
  std::vector<std::thread> workers;
  for (Tensor& one : found)
    workers.emplace_back([&spectrogram, &clips, &one] {
      for (int i = 0; i < 20; ++i) one = spectrogram(clips);
    });
  for (std::thread& worker : workers) worker.join();
  for (const Tensor& one : found) EXPECT_LT(largest_difference(one, expected), 1e-6);
}

TEST(LogMelSpectrogram, RefusesClipsAndOptionsThatGiveNone) {
  LogMelSpectrogram spectrogram;
  const auto call = [&] { spectrogram(torch::zeros({1, 200})); };
  EXPECT_THAT(test::message_of<UserError>(call), HasSubstr("more than 200 samples, got 200"));
  EXPECT_THROW(spectrogram(torch::zeros({400})), c10::Error);
  EXPECT_THROW(spectrogram(torch::zeros({1, 400}, torch::kLong)), c10::Error);
  EXPECT_THROW(mel_filters({.n_mels = 0}), UserError);
  EXPECT_THROW(mel_filters({.f_max = 9000}), UserError);
  EXPECT_THROW(mel_filters({.f_min = 8000}), UserError);
  EXPECT_THROW(mel_filters({.f_min = std::nan("")}), UserError);
}

}  // namespace
}  // namespace halftone::log_mel_spectrogram_test
