// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/timestep_embedding.h"

#include <gtest/gtest.h>

#include <cmath>

#include "halftone/autocast/autocast.h"

namespace halftone::timestep_embedding_test {
namespace {

using torch::Tensor;

TEST(SinusoidalEmbedding, HasTheWavesOfItsFormula) {
  const Tensor t = torch::tensor({0.0, 1.0, 250.5, 999.0}, torch::kDouble);
  const Tensor found = sinusoidal_embedding(t, 9, 1000.0);
  ASSERT_EQ(found.sizes(), (std::vector<std::int64_t>{4, 9}));
  EXPECT_EQ(found.scalar_type(), torch::kFloat);
  for (std::int64_t b = 0; b < 4; ++b) {
    for (std::int64_t i = 0; i < 4; ++i) {
      const double angle = t[b].item<double>() * std::pow(1000.0, -static_cast<double>(i) / 4.0);
      EXPECT_NEAR(found[b][i].item<double>(), std::cos(angle), 1e-4);  // fp32 angles up to 1000
      EXPECT_NEAR(found[b][4 + i].item<double>(), std::sin(angle), 1e-4);
    }
    EXPECT_EQ(found[b][8].item<double>(), 0.0);
  }
}

// bf16 has 8 bits: it would take 999 and 1000 for one step.
TEST(SinusoidalEmbedding, TellsNeighbouringStepsApartUnderAutocast) {
  const Tensor t = torch::tensor({999, 1000});
  const Tensor expected = sinusoidal_embedding(t, 32);
  const Autocast autocast(torch::kCPU, torch::kBFloat16);
  EXPECT_TRUE(sinusoidal_embedding(t, 32).equal(expected));
  EXPECT_GT((expected[0] - expected[1]).norm().item<double>(), 0.5);
}

TEST(SinusoidalEmbedding, RefusesWhatHasNoWaves) {
  EXPECT_THROW(sinusoidal_embedding(torch::zeros({2, 2}), 8), c10::Error);
  EXPECT_THROW(sinusoidal_embedding(torch::zeros({2}), 1), c10::Error);
  EXPECT_THROW(sinusoidal_embedding(torch::zeros({2}), 8, 0.0), c10::Error);
}

TEST(TimestepEmbedding, IsAnMlpOfTheWaves) {
  torch::manual_seed(1);
  TimestepEmbedding embedding(24, 16);
  const Tensor t = torch::tensor({3.0F, 700.0F});
  const auto p = embedding->named_parameters();
  const Tensor hidden =
      torch::silu(torch::addmm(p["w1.bias"], sinusoidal_embedding(t, 16), p["w1.weight"].t()));
  const Tensor expected = torch::addmm(p["w2.bias"], hidden, p["w2.weight"].t());
  EXPECT_LT((embedding(t) - expected).abs().max().item<double>(), 1e-6);
  embedding->to(torch::kBFloat16);
  const Tensor narrow = embedding(t);
  EXPECT_EQ(narrow.scalar_type(), torch::kBFloat16);
  EXPECT_LT((narrow - expected).abs().max().item<double>(), 2e-2);
}

}  // namespace
}  // namespace halftone::timestep_embedding_test
