// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/text.h"

#include <gtest/gtest.h>

#include <string_view>
#include <utility>
#include <vector>

namespace halftone {
namespace {

TEST(NearestMatch, FindsTheLikelySlip) {
  const std::vector<std::string> keys = {"batch_size", "seq_len", "max_steps"};
  EXPECT_EQ(nearest_match("batchsize", keys), "batch_size");
  EXPECT_EQ(nearest_match("max_step", keys), "max_steps");
  EXPECT_EQ(nearest_match("zzzzzz", keys), std::nullopt);
  EXPECT_EQ(nearest_match("x", {}), std::nullopt);
}

TEST(Utf8, AcceptsEveryLengthAndItsLimits) {
  for (const char* text : {"", "a", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF",
                           "\xEE\x80\x80", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF", "诗 poem"})
    EXPECT_EQ(find_invalid_utf8(text), std::nullopt) << text;
}

TEST(Utf8, NamesTheFirstBadByte) {
  EXPECT_EQ(find_invalid_utf8("ab\xFF"), 2);
  EXPECT_EQ(find_invalid_utf8("a\xC0\x80"), 1);         // overlong
  EXPECT_EQ(find_invalid_utf8("\xE0\x9F\xBF"), 0);      // overlong
  EXPECT_EQ(find_invalid_utf8("\xED\xA0\x80"), 0);      // surrogate
  EXPECT_EQ(find_invalid_utf8("\xF4\x90\x80\x80"), 0);  // above U+10FFFF
  EXPECT_EQ(find_invalid_utf8("诗\xE8\xAF"), 3);        // cut off
  EXPECT_EQ(find_invalid_utf8("\x80"), 0);              // stray continuation
}

TEST(Utf8, ReplacesEachMaximalBadPart) {
  EXPECT_EQ(replace_invalid_utf8("a\xFF z"), "a\xEF\xBF\xBD z");
  EXPECT_EQ(replace_invalid_utf8("\xE8\xAF"), "\xEF\xBF\xBD");
  EXPECT_EQ(replace_invalid_utf8("诗"), "诗");
}

TEST(ParseBytes, TakesUnitsOf1000And1024) {
  const std::vector<std::pair<std::string_view, std::uint64_t>> good = {
      {"812", 812},          {"812B", 812},    {"8GiB", 8ULL << 30U}, {"8 gib", 8ULL << 30U},
      {"7.5GB", 7500000000}, {"3.5KiB", 3584}, {"12MiB", 12 << 20U},  {"2kB", 2000},
      {"1TiB", 1ULL << 40U}, {"0", 0},         {".5 MB", 500000},     {"1 TB", 1000000000000}};
  for (const auto& [text, bytes] : good) EXPECT_EQ(parse_bytes(text), bytes) << text;
}

TEST(ParseBytes, RefusesWhatIsNoSize) {
  for (const char* text : {"", "GiB", "8 G", "8GiBs", "-1", "1.2.3", "8 GiB ", "1e400", "nan",
                           "9999999999 TiB", "8,5GB", " 8"})
    EXPECT_EQ(parse_bytes(text), std::nullopt) << text;
}

TEST(Format, BytesAndSeconds) {
  EXPECT_EQ(format_bytes(812), "812 B");
  EXPECT_EQ(format_bytes(3 * 1024 + 512), "3.5 KiB");
  EXPECT_EQ(format_bytes(12ULL << 20U), "12 MiB");
  EXPECT_EQ(format_seconds(4.24), "4.2s");
  EXPECT_EQ(format_seconds(185), "3m05s");
  EXPECT_EQ(format_seconds(3725), "1h02m");
}

}  // namespace
}  // namespace halftone
