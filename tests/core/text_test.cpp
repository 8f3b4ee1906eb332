// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/text.h"

#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace halftone::text_test {
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

TEST(HtmlEscaped, LeavesNothingThatHtmlTakesForItsOwn) {
  EXPECT_EQ(html_escaped("<a href=\"x\">'&'</a>"),
            "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
  EXPECT_EQ(html_escaped(std::string("\0\x1b\x7f\xff\n", 5)), "\uFFFD\uFFFD\uFFFD\uFFFD\n");
  EXPECT_EQ(html_escaped("春眠"), "春眠");
}

/// Length of the character at `at` by table 3-7 of the Unicode standard; where it is broken, minus
/// the length of the part that is well-formed so far.
int by_the_table(std::string_view text, std::size_t at) {
  struct Row {
    unsigned first_low, first_high, second_low, second_high;
    int length;
  };
  constexpr std::array<Row, 8> kRows = {{{0xC2, 0xDF, 0x80, 0xBF, 2},
                                         {0xE0, 0xE0, 0xA0, 0xBF, 3},
                                         {0xE1, 0xEC, 0x80, 0xBF, 3},
                                         {0xED, 0xED, 0x80, 0x9F, 3},
                                         {0xEE, 0xEF, 0x80, 0xBF, 3},
                                         {0xF0, 0xF0, 0x90, 0xBF, 4},
                                         {0xF1, 0xF3, 0x80, 0xBF, 4},
                                         {0xF4, 0xF4, 0x80, 0x8F, 4}}};
  const auto within = [&](std::size_t i, unsigned low, unsigned high) {
    if (at + i >= text.size()) return false;
    const unsigned byte = static_cast<unsigned char>(text[at + i]);
    return byte >= low && byte <= high;
  };
  if (within(0, 0, 0x7F)) return 1;
  for (const Row& row : kRows) {
    if (!within(0, row.first_low, row.first_high)) continue;
    if (!within(1, row.second_low, row.second_high)) return -1;
    for (int i = 2; i < row.length; ++i)
      if (!within(static_cast<std::size_t>(i), 0x80, 0xBF)) return -i;
    return row.length;
  }
  return -1;
}

// Every sequence of up to four bytes that lie at a limit of the table.
TEST(Utf8, FollowsTheStandardsTable) {
  constexpr std::string_view kLimits =
      "a\x7F\x80\x8F\x90\x9F\xA0\xBF\xC0\xC1\xC2\xDF\xE0\xE1\xEC\xED\xEE\xEF\xF0\xF1\xF3\xF4\xF5"
      "\xFF";
  const std::size_t count = kLimits.size();
  std::size_t wrong = 0;
  for (std::size_t number = 0; number < count * count * count * count; ++number) {
    std::string text;
    for (std::size_t rest = number; text.size() < 4; rest /= count) text += kLimits[rest % count];
    for (const std::size_t length : {3, 4}) {
      const std::string_view part = std::string_view(text).substr(0, length);
      std::optional<std::size_t> bad;
      std::string repaired;
      for (std::size_t at = 0; at < part.size();) {
        const int size = by_the_table(part, at);
        if (size < 0 && !bad) bad = at;
        repaired += size < 0 ? "\xEF\xBF\xBD" : std::string(part.substr(at, size));
        at += static_cast<std::size_t>(size < 0 ? -size : size);
      }
      if (find_invalid_utf8(part) != bad || replace_invalid_utf8(part) != repaired) ++wrong;
    }
  }
  EXPECT_EQ(wrong, 0U);
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
}  // namespace halftone::text_test
