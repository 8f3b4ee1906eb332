// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/block_pool.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

namespace halftone::block_pool_test {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20U;

TEST(BlockPool, GivesMemoryThatHoldsWhatIsWrittenToIt) {
  BlockPool pool;
  for (const std::size_t bytes :
       {std::size_t{1}, std::size_t{4095}, kMiB, 2 * kMiB, 5 * kMiB + 3}) {
    void* const block = pool.allocate(bytes);
    ASSERT_NE(block, nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block) % 64, 0U);
    std::memset(block, 0x5a, bytes);
    EXPECT_GE(pool.usage().in_use, bytes);
    EXPECT_TRUE(pool.free(block));
    EXPECT_EQ(pool.usage().in_use, 0U);
  }
}

TEST(BlockPool, UsesAFreedBlockForWhatIsAboutAsLarge) {
  BlockPool pool;
  void* const first = pool.allocate(8 * kMiB);
  EXPECT_TRUE(pool.free(first));
  const std::size_t mapped = pool.usage().mapped;
  EXPECT_EQ(pool.allocate(7 * kMiB + kMiB / 2), first);
  EXPECT_EQ(pool.usage().mapped, mapped);
  EXPECT_TRUE(pool.free(first));
  void* const smaller = pool.allocate(2 * kMiB);
  EXPECT_NE(smaller, first);
  EXPECT_TRUE(pool.free(smaller));
}

TEST(BlockPool, MapsNothingAnewWhenAStepIsRepeated) {
  BlockPool pool;
  std::size_t after_first = 0;
  for (int step = 0; step < 5; ++step) {
    std::vector<void*> kept;
    for (int layer = 0; layer < 8; ++layer) {
      kept.push_back(pool.allocate(3 * kMiB));
      void* const scratch = pool.allocate(7 * kMiB);
      kept.push_back(pool.allocate(kMiB));
      EXPECT_TRUE(pool.free(scratch));
    }
    for (; !kept.empty(); kept.pop_back()) EXPECT_TRUE(pool.free(kept.back()));
    if (step == 0) after_first = pool.usage().mapped;
    EXPECT_EQ(pool.usage().mapped, after_first);
  }
}

TEST(BlockPool, HoldsAtMostASixthMoreThanWasInUse) {
  BlockPool pool;
  std::mt19937 random(7);
  std::vector<void*> blocks;
  for (int i = 0; i < 2000; ++i) {
    if (blocks.size() < 3 || (random() % 2 == 0 && blocks.size() < 40)) {
      blocks.push_back(pool.allocate((random() % 64 + 1) * kMiB / 4));
      ASSERT_NE(blocks.back(), nullptr);
    } else {
      const std::size_t one = random() % blocks.size();
      EXPECT_TRUE(pool.free(blocks[one]));
      blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(one));
    }
    const BlockPool::Usage usage = pool.usage();
    EXPECT_LE(usage.in_use, usage.mapped);
    EXPECT_LE(usage.mapped, usage.peak + usage.peak / 6);
  }
  for (void* block : blocks) EXPECT_TRUE(pool.free(block));
  EXPECT_EQ(pool.usage().in_use, 0U);
  EXPECT_GT(pool.usage().mapped, 0U);
  pool.release();
  EXPECT_EQ(pool.usage().mapped, 0U);
  EXPECT_EQ(pool.usage().peak, 0U);
}

TEST(BlockPool, TellsTheRecentPeak) {
  BlockPool pool;
  EXPECT_EQ(pool.take_recent_peak(), 0U);
  void* const kept = pool.allocate(kMiB);
  const std::size_t one = pool.usage().in_use;
  EXPECT_TRUE(pool.free(pool.allocate(8 * kMiB)));
  EXPECT_GE(pool.take_recent_peak(), 9 * kMiB);
  EXPECT_EQ(pool.take_recent_peak(), one);
  EXPECT_GE(pool.usage().peak, 9 * kMiB);
  EXPECT_TRUE(pool.free(kept));
}

TEST(BlockPool, TellsWhatIsNotItsOwn) {
  BlockPool pool;
  int own = 0;
  EXPECT_FALSE(pool.free(&own));
  void* const block = pool.allocate(kMiB);
  EXPECT_TRUE(pool.free(block));
  EXPECT_FALSE(pool.free(block));
}

TEST(BlockPool, SaysWhenTheSystemHasNoMore) {
  BlockPool pool;
  EXPECT_EQ(pool.allocate(std::size_t{1} << 60U), nullptr);
  EXPECT_EQ(pool.usage().in_use, 0U);
  EXPECT_EQ(pool.usage().mapped, 0U);
}

TEST(BlockPool, ServesSeveralThreads) {
  BlockPool pool;
  const auto work = [&pool](int seed) {
    std::mt19937 random(static_cast<unsigned>(seed));
    for (int i = 0; i < 300; ++i) {
      const std::size_t bytes = (random() % 8 + 1) * kMiB;
      auto* const block = static_cast<int*>(pool.allocate(bytes));
      block[0] = seed;
      block[bytes / sizeof(int) - 1] = i;
      std::this_thread::yield();
      EXPECT_EQ(block[0], seed);
      EXPECT_EQ(block[bytes / sizeof(int) - 1], i);
      EXPECT_TRUE(pool.free(block));
    }
  };
  std::vector<std::thread> threads;
  for (int seed = 0; seed < 4; ++seed) threads.emplace_back(work, seed);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pool.usage().in_use, 0U);
}

}  // namespace
}  // namespace halftone::block_pool_test
