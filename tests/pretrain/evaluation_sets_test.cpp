// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/evaluation_sets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "halftone/core/error.h"
#include "support/temp_folder.h"

namespace halftone::evaluation_sets_test {
namespace {

using test::message_of;
using test::TempFolder;
using test::write_text;
using testing::HasSubstr;

TEST(TextSets, HaveTheirPathOrTheirOwnName) {
  const TempFolder folder;
  write_text(folder / "a=b.txt", "x");
  const std::string strange = (folder / "a=b.txt").string();
  const auto sets = parse_text_sets({"tang=" + strange, strange, "poems.txt"});
  ASSERT_EQ(sets.size(), 3U);
  EXPECT_EQ(sets[0].name, "tang");
  EXPECT_EQ(sets[0].path, strange);
  EXPECT_TRUE(sets[0].is_named);
  EXPECT_EQ(sets[1].path, strange);
  EXPECT_FALSE(sets[1].is_named);
  EXPECT_EQ(sets[2].name, "poems.txt");
  EXPECT_TRUE(sets[2].path.ends_with("/poems.txt") && sets[2].path.starts_with("/"));
  EXPECT_EQ(parse_text_sets({"=x"})[0].name, "=x");
  EXPECT_TRUE(parse_text_sets({}).empty());
  EXPECT_THAT(message_of<UserError>([] {
                parse_text_sets({"a=1", "a=2"});
              }),
              HasSubstr("got 'a' twice; name them NAME=PATH"));
}

TEST(TextSets, CountAllTokensAlikeInTheTotal) {
  const EvalResult small{.loss = 1, .tokens = 10, .bytes = 20, .seconds = 2};
  const EvalResult large{.loss = 3, .tokens = 30, .bytes = 30, .seconds = 3};
  const EvalResult total = total_of({small, large});
  EXPECT_DOUBLE_EQ(total.loss, 2.5);
  EXPECT_DOUBLE_EQ(total.perplexity, std::exp(2.5));
  EXPECT_DOUBLE_EQ(total.bits_per_byte, 100 / std::numbers::ln2 / 50);
  EXPECT_EQ(total.tokens, 40);
  EXPECT_EQ(total.bytes, 50);
  EXPECT_DOUBLE_EQ(total.seconds, 5);
  EXPECT_DOUBLE_EQ(total_of({small}).loss, 1);
}

}  // namespace
}  // namespace halftone::evaluation_sets_test
