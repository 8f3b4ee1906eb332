// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/speed.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "halftone/core/random.h"
#include "halftone/machine/speed_impl.h"

namespace halftone::speed_test {
namespace {

TEST(MultiplyAdds, ComputeWhatTheyAreCountedFor) {
  std::array<float, kFmaChains> sink{};
  std::iota(sink.begin(), sink.end(), 1.0F);
  const double flops = multiply_adds(10, sink.data());
  const double lanes = flops / (10.0 * kFmaChains * 2.0);
  EXPECT_EQ(lanes, std::round(lanes));
  // Each chain starts at c and goes towards 1 by a factor of 0.999; every lane of it alike.
  const double factor = std::pow(0.999, 10);
  double expected = 0;
  for (int c = 1; c <= kFmaChains; ++c) expected += 1.0 + (c - 1.0) * factor;
  EXPECT_NEAR(sink[0], lanes * expected, 1e-3 * lanes * expected);
}

TEST(Triad, FillsEveryElementOfOddLengths) {
  for (const std::int64_t count : {0, 1, 7, 16, 33, 100}) {
    const auto size = static_cast<std::size_t>(count);
    std::vector<float> a(size + 1, -1.0F), b(size), c(size);
    std::iota(b.begin(), b.end(), 0.0F);
    std::iota(c.begin(), c.end(), 100.0F);
    triad(a.data(), b.data(), c.data(), count);
    for (std::size_t i = 0; i < size; ++i) EXPECT_EQ(a[i], b[i] + 3.0F * c[i]) << count;
    EXPECT_EQ(a[size], -1.0F) << count;
  }
}

TEST(LayerSpeeds, AreOfEachRecipeOnce) {
  const auto state = rng_state(torch::kCPU);
  const std::vector<LayerSpeed> speeds = layer_speeds({.tokens = 8, .in = 16, .out = 24}, 2);
  ASSERT_EQ(speeds.size(), compute_types().size());
  EXPECT_EQ(fp32_weights_precision(speeds[0].compute), "32-true");
  EXPECT_EQ(fp32_weights_precision(speeds[3].compute), "int8-mixed");
  for (const LayerSpeed& speed : speeds) {
    EXPECT_TRUE(std::isfinite(speed.seconds) && speed.seconds > 0) << to_string(speed.compute);
    EXPECT_NEAR(speed.gflops * speed.seconds * 1e9, 6.0 * 8 * 16 * 24, 1e-3)
        << to_string(speed.compute);
  }
  const auto after = rng_state(torch::kCPU);
  for (const auto& [name, tensor] : state.tensors) EXPECT_TRUE(after.tensor(name).equal(tensor));
}

TEST(LayerSpeeds, AreMeasuredInsideARegionWithoutGradients) {
  const torch::NoGradGuard no_grad;
  EXPECT_EQ(layer_speeds({.tokens = 4, .in = 8, .out = 8}, 1).size(), compute_types().size());
}

}  // namespace
}  // namespace halftone::speed_test
