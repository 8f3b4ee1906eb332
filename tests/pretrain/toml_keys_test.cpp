// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/toml_keys.h"

#include <gtest/gtest.h>

#include <string>

namespace halftone::toml_keys_test {
namespace {

std::optional<std::int64_t> deep_line(const std::string& toml) { return line_of_deep_key(toml, 3); }

TEST(LineOfDeepKey, FindsKeysAndTables) {
  EXPECT_EQ(deep_line("a.b.c.d = 1"), 1);
  EXPECT_EQ(deep_line("x = 1\n\n[a.b.c.d]\n"), 3);
  EXPECT_EQ(deep_line("[[a.b.c.d]]"), 1);
  EXPECT_EQ(deep_line("a . b . \"c\" . 'd' = 1"), 1);
  EXPECT_EQ(deep_line("x = {a.b.c.d = 1}"), 1);
  EXPECT_EQ(deep_line("x = [{y = 1},\n {a.b.c.d = 1}]"), 2);
  EXPECT_EQ(deep_line("x = \"\"\"\n\n\"\"\"\na.b.c.d = 1"), 4);
}

TEST(LineOfDeepKey, LeavesOthersAlone) {
  EXPECT_EQ(deep_line("a.b.c = 1.5\n[x.y.z]\nd.e.f = [1.5, 2.5, 3.5, 4.5]\n"), std::nullopt);
  EXPECT_EQ(deep_line(""), std::nullopt);
}

TEST(LineOfDeepKey, DoesNotCountDotsOfStringsAndComments) {
  EXPECT_EQ(deep_line("a = \"../../../../x\" # 1.2.3.4.5"), std::nullopt);
  EXPECT_EQ(deep_line("a = '....' # ...."), std::nullopt);
  EXPECT_EQ(deep_line("a = \"\\\"....\"\n"), std::nullopt);
  EXPECT_EQ(deep_line("a = '....\\'\nb = 1"), std::nullopt);
  EXPECT_EQ(deep_line("a = \"\"\"\n....\n\"....\" \\\"\"\" ....\"\"\"\n"), std::nullopt);
  EXPECT_EQ(deep_line("a = '''\n....'' ....'''\n"), std::nullopt);
  EXPECT_EQ(deep_line("\"a....b\".c = 1"), std::nullopt);
}

TEST(LineOfDeepKey, GoesOnBehindAStringThatEndsInQuotes) {
  EXPECT_EQ(deep_line("a = \"\"\"x\"\"\"\"\"\nb.c.d.e = 1"), 2);
  EXPECT_EQ(deep_line("a = ''''x'''''\nb.c.d.e = 1"), 2);
  EXPECT_EQ(deep_line("a = \"\"\nb.c.d.e = 1"), 2);
  EXPECT_EQ(deep_line("a = \"\"\"\"\"\"\nb.c.d.e = 1"), 2);
}

TEST(LineOfDeepKey, TakesStringsThatNeverEnd) {
  EXPECT_EQ(deep_line("a = \"x\nb.c.d.e = 1"), 2);  // the line ends it, as toml++ will refuse
  EXPECT_EQ(deep_line("a = '''x\nb.c.d.e = 1"), std::nullopt);
  EXPECT_EQ(deep_line("a = \"\\"), std::nullopt);
}

}  // namespace
}  // namespace halftone::toml_keys_test
