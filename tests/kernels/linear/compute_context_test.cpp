// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/compute_context.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <thread>

#include "halftone/core/random.h"
#include "support/compute_contexts.h"

namespace halftone::compute_context_test {
namespace {

TEST(ComputeScope, NestsAndBelongsToOneThread) {
  EXPECT_FALSE(compute_context().recompute_blocks);
  {
    const ComputeScope outer(test::recomputing_blocks());
    {
      const ComputeScope inner(test::computing_in(ComputeType::kInt8));
      EXPECT_EQ(compute_context().compute, ComputeType::kInt8);
      EXPECT_TRUE(compute_context().recompute_blocks) << "a copy of the outer one, changed";
      const ComputeScope off(test::recomputing_blocks(false));
      EXPECT_FALSE(compute_context().recompute_blocks);
    }
    EXPECT_EQ(compute_context().compute, ComputeType::kFloat32);
    EXPECT_TRUE(compute_context().recompute_blocks);
    bool elsewhere = true;
    std::thread([&] { elsewhere = compute_context().recompute_blocks; }).join();
    EXPECT_FALSE(elsewhere);
  }
  EXPECT_FALSE(compute_context().recompute_blocks);
}

TEST(ComputeScope, TakesAContextToAnotherThread) {
  const ComputeContext context = test::computing_in(ComputeType::kInt8, 3, 4);
  bool recomputes = false;
  std::uint64_t stream = 0;
  std::thread([&] {
    const ComputeScope scope(context);
    recomputes = compute_context().compute == ComputeType::kInt8;
    stream = compute_context().streams.next();
  }).join();
  EXPECT_TRUE(recomputes);
  EXPECT_EQ(stream, RoundingStreams(3, 4).next());
}

TEST(RoundingStreams, AreAFunctionOfSeedPassAndLayer) {
  std::set<std::uint64_t> words;
  for (const std::uint64_t seed : {0U, 1U})
    for (const std::uint64_t pass : {0U, 1U}) {
      const RoundingStreams streams(seed, pass), same(seed, pass);
      for (int layer = 0; layer < 3; ++layer) {
        const std::uint64_t word = streams.next();
        EXPECT_EQ(word, same.next());
        words.insert(word);
      }
    }
  EXPECT_EQ(words.size(), 12);
  EXPECT_EQ(RoundingStreams(5, 6).next(), random_word(random_word(5, 6), 0)) << "runs resume by it";
}

TEST(RoundingStreams, CopiesDrawFromOneSequenceAndReplaysFromTheirOwn) {
  const RoundingStreams streams(1, 2);
  streams.next();
  const RoundingStreams again = streams.again();
  const RoundingStreams copy = streams;
  const std::uint64_t second = streams.next(), third = copy.next();
  EXPECT_NE(second, third);
  EXPECT_EQ(again.next(), second);
  EXPECT_EQ(again.next(), third);
  EXPECT_NE(streams.next(), third);
}

TEST(RoundingStreams, AreZeroWithoutASeed) {
  const RoundingStreams none;
  EXPECT_EQ(none.next(), 0);
  EXPECT_EQ(none.again().next(), 0);
}

}  // namespace
}  // namespace halftone::compute_context_test
