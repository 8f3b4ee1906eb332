// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/large_pages.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace halftone::large_pages_test {
namespace {

TEST(LargePages, GiveAlignedMemoryThatOutlivesItsFirstTensor) {
  constexpr std::uintptr_t kPage = 1U << 21U;
  for (const std::int64_t bytes : {std::int64_t{0}, std::int64_t{1}, std::int64_t{5} << 20U}) {
    torch::Tensor kept;
    {
      const torch::Tensor buffer = empty_on_large_pages(bytes);
      EXPECT_EQ(buffer.sizes(), (std::vector<std::int64_t>{bytes}));
      EXPECT_EQ(buffer.scalar_type(), torch::kByte);
      EXPECT_EQ(bytes == 0 ? 0 : reinterpret_cast<std::uintptr_t>(buffer.data_ptr()) % kPage, 0U);
      kept = buffer.slice(0, bytes / 2);
      kept.fill_(7);
    }
    EXPECT_EQ(kept.sum().item<std::int64_t>(), 7 * kept.numel());
  }
  EXPECT_THROW(empty_on_large_pages(-1), c10::Error);
}

TEST(LargePages, GiveZerosThatAreTheirOwn) {
  constexpr std::uintptr_t kPage = 1U << 21U;
  for (const std::int64_t bytes :
       {std::int64_t{1}, std::int64_t{1} << 21U, std::int64_t{5} << 20U}) {
    const torch::Tensor zeros = zeros_on_large_pages(bytes);
    EXPECT_EQ(zeros.count_nonzero().item<std::int64_t>(), 0);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(zeros.data_ptr()) % kPage, 0U);
    zeros.fill_(3);
    // Memory that was used before must not come back as it was left.
    EXPECT_EQ(zeros_on_large_pages(bytes).count_nonzero().item<std::int64_t>(), 0);
    EXPECT_EQ(zeros.sum().item<std::int64_t>(), 3 * bytes);
  }
  for (int round = 0; round < 3; ++round) {
    const torch::Tensor zeros = zeros_on_large_pages(1 << 20U);
    EXPECT_EQ(zeros.count_nonzero().item<std::int64_t>(), 0);
    zeros.fill_(9);
  }
  EXPECT_THROW(zeros_on_large_pages(-1), c10::Error);
}

}  // namespace
}  // namespace halftone::large_pages_test
