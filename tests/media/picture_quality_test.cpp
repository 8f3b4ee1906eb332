// SPDX-License-Identifier: Apache-2.0
#include "halftone/media/picture_quality.h"

#include <c10/util/Exception.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <limits>

namespace halftone::picture_quality_test {
namespace {

using torch::Tensor;

Tensor random_pictures(std::int64_t seed, torch::IntArrayRef shape) {
  torch::manual_seed(static_cast<std::uint64_t>(seed));
  return torch::rand(shape);
}

/// The definition, window by window, of one channel.
double similarity_of(const Tensor& a, const Tensor& b) {
  const auto x = a.accessor<float, 2>(), y = b.accessor<float, 2>();
  double sum = 0;
  std::int64_t windows = 0;
  for (std::int64_t top = 0; top + 11 <= a.size(0); ++top)
    for (std::int64_t left = 0; left + 11 <= a.size(1); ++left, ++windows) {
      double weight = 0, mx = 0, my = 0;
      const auto each = [&](const auto& use) {
        for (std::int64_t i = 0; i < 11; ++i)
          for (std::int64_t j = 0; j < 11; ++j) {
            const double distance = static_cast<double>((i - 5) * (i - 5) + (j - 5) * (j - 5));
            use(std::exp(-distance / 4.5), static_cast<double>(x[top + i][left + j]),
                static_cast<double>(y[top + i][left + j]));
          }
      };
      each([&](double w, double p, double q) { weight += w, mx += w * p, my += w * q; });
      mx /= weight, my /= weight;
      double vx = 0, vy = 0, cov = 0;
      each([&](double w, double p, double q) {
        vx += w * (p - mx) * (p - mx), vy += w * (q - my) * (q - my),
            cov += w * (p - mx) * (q - my);
      });
      vx /= weight, vy /= weight, cov /= weight;
      sum +=
          (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx * mx + my * my + 1e-4) * (vx + vy + 9e-4));
    }
  return sum / static_cast<double>(windows);
}

TEST(PeakSignalToNoise, IsThatOfEachPair) {
  Tensor reference = torch::full({3, 2, 4, 5}, 0.5);
  Tensor pictures = reference.clone();
  pictures[1] += 0.1;            // everywhere: 20 dB
  pictures[2][0][0][0] += 0.25;  // one number of 40
  const Tensor ratios = peak_signal_to_noise(pictures, reference);
  EXPECT_EQ(ratios.scalar_type(), torch::kDouble);
  EXPECT_EQ(ratios[0].item<double>(), std::numeric_limits<double>::infinity());
  EXPECT_NEAR(ratios[1].item<double>(), 20.0, 1e-5);
  EXPECT_NEAR(ratios[2].item<double>(), -10 * std::log10(0.0625 / 40), 1e-9);
}

TEST(StructuralSimilarity, IsThatOfItsDefinition) {
  const Tensor reference = random_pictures(1, {2, 3, 13, 17});
  const Tensor pictures = (reference + 0.3 * random_pictures(2, {2, 3, 13, 17})).clamp(0, 1);
  const Tensor similarity = structural_similarity(pictures, reference);
  for (std::int64_t n = 0; n < 2; ++n) {
    double expected = 0;
    for (std::int64_t c = 0; c < 3; ++c)
      expected += similarity_of(pictures[n][c], reference[n][c]) / 3;
    EXPECT_NEAR(similarity[n].item<double>(), expected, 1e-12);
    EXPECT_LT(expected, 0.95);
  }
  EXPECT_NEAR(structural_similarity(reference, reference).min().item<double>(), 1.0, 1e-12);
}

TEST(PictureQuality, TakesAllFloatingFormatsAndNoPicture) {
  const Tensor reference = random_pictures(3, {2, 1, 12, 12});
  const Tensor pictures = random_pictures(4, {2, 1, 12, 12}).to(torch::kBFloat16);
  const Tensor wide = pictures.to(torch::kDouble);
  EXPECT_TRUE(
      structural_similarity(pictures, reference).equal(structural_similarity(wide, reference)));
  EXPECT_TRUE(
      peak_signal_to_noise(pictures, reference).equal(peak_signal_to_noise(wide, reference)));
  const Tensor none = torch::zeros({0, 3, 16, 16});
  EXPECT_EQ(structural_similarity(none, none).sizes(), torch::IntArrayRef({0}));
  EXPECT_EQ(peak_signal_to_noise(none, none).sizes(), torch::IntArrayRef({0}));
}

TEST(PictureQuality, RefusesWhatIsNoPair) {
  const Tensor small = torch::zeros({1, 3, 10, 20});
  EXPECT_THROW(structural_similarity(small, small), c10::Error);
  EXPECT_THROW(peak_signal_to_noise(small, torch::zeros({1, 3, 20, 10})), c10::Error);
  EXPECT_THROW(peak_signal_to_noise(small.to(torch::kUInt8), small.to(torch::kUInt8)), c10::Error);
  EXPECT_THROW(peak_signal_to_noise(small[0], small[0]), c10::Error);
}

}  // namespace
}  // namespace halftone::picture_quality_test
