// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/sequence_mask.h"

#include <gtest/gtest.h>

namespace halftone::sequence_mask_test {
namespace {

TEST(SequenceMask, IsTrueBeforeTheEnd) {
  const torch::Tensor mask = sequence_mask(torch::tensor({2, 0, 3, 9, -1}), 3);
  const torch::Tensor expected =
      torch::tensor({1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0}).view({5, 3}).to(torch::kBool);
  EXPECT_TRUE(mask.equal(expected));
  EXPECT_TRUE(sequence_mask(torch::zeros({0}, torch::kLong), 3).sizes().equals({0, 3}));
  EXPECT_TRUE(sequence_mask(torch::tensor({1, 2}), 0).sizes().equals({2, 0}));
}

TEST(SequenceMask, WantsLengths) {
  EXPECT_THROW(sequence_mask(torch::zeros({2, 1}, torch::kLong), 3), c10::Error);
  EXPECT_THROW(sequence_mask(torch::zeros({2}), 3), c10::Error);
}

}  // namespace
}  // namespace halftone::sequence_mask_test
