// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/random.h"

#include <gtest/gtest.h>

#include <set>

namespace halftone::random_test {
namespace {

TEST(RandomWord, IsSplitMix64) {
  // First outputs of the reference generator seeded with 1234567.
  EXPECT_EQ(random_word(1234567, 0), 6457827717110365317ULL);
  EXPECT_EQ(random_word(1234567, 1), 3203168211198807973ULL);
  EXPECT_EQ(random_word(1234567, 2), 9817491932198370423ULL);
}

TEST(PermutedIndex, IsAPermutationOfEverySize) {
  for (const std::uint64_t size : {1, 2, 3, 5, 64, 65, 1000, 4097}) {
    std::set<std::uint64_t> seen;
    for (std::uint64_t i = 0; i < size; ++i) seen.insert(permuted_index(7, i, size));
    EXPECT_EQ(seen.size(), size);
    EXPECT_EQ(*seen.rbegin(), size - 1);
  }
}

TEST(PermutedIndex, SeedsDifferAndMostItemsMove) {
  int same = 0;
  int fixed = 0;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    same += permuted_index(1, i, 1000) == permuted_index(2, i, 1000);
    fixed += permuted_index(1, i, 1000) == i;
  }
  EXPECT_LT(same, 20);
  EXPECT_LT(fixed, 20);
}

TEST(PermutedIndex, RefusesAnIndexOutsideTheSize) {
  EXPECT_THROW(permuted_index(1, 5, 5), c10::Error);
}

TEST(DefaultRng, StateRoundTrips) {
  torch::manual_seed(3);
  torch::rand({5});
  const StateDict state = rng_state(torch::kCPU);
  const torch::Tensor first = torch::randn({17});
  set_rng_state(torch::kCPU, state);
  EXPECT_TRUE(torch::equal(first, torch::randn({17})));
}

}  // namespace
}  // namespace halftone::random_test
