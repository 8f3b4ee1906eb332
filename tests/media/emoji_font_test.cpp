// SPDX-License-Identifier: Apache-2.0
// The font of tests/golden/make_font_golden.py, which packs it by hand.
#include "halftone/media/emoji_font.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <filesystem>
#include <string>

#include "halftone/core/error.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::emoji_font_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::HasSubstr;

fs::path golden_font() { return fs::path(test::kGoldenDir) / "emoji.ttf"; }

/// Its heart says 32767 x 32767 pixels.
fs::path sbix_font() { return fs::path(test::kGoldenDir) / "emoji_sbix.ttf"; }

torch::Tensor even_picture(const std::vector<int>& pixel) {
  return torch::tensor(pixel, torch::kByte).reshape({4, 1, 1}).expand({4, 3, 4});
}

TEST(EmojiFont, FindsCharactersAndLigatures) {
  const EmojiFont font(golden_font());
  EXPECT_EQ(font.find("😀"), 1U);
  EXPECT_EQ(font.find("❤"), 2U);
  EXPECT_EQ(font.find("😀❤"), 3U);
  EXPECT_EQ(font.find("❤\uFE0F"), 2U);
  for (const char* text : {"❤😀", "👋", "", "a", "\xFF\xFE", "😀❤😀"})
    EXPECT_EQ(font.find(text), std::nullopt) << text;
}

TEST(EmojiFont, GivesPicturesWithAlphaMultipliedIn) {
  const EmojiFont font(golden_font());
  EXPECT_TRUE(font.picture(1).equal(even_picture({255, 0, 0, 255})));
  EXPECT_TRUE(font.picture(2).equal(even_picture({0, 100, 0, 128})));  // 200 * 128 / 255
  const torch::Tensor steps = (torch::arange(12) * 20).reshape({3, 4}).to(torch::kByte);
  const torch::Tensor both = font.picture(3);
  EXPECT_TRUE(both[3].equal(steps));
  EXPECT_TRUE(both[2].equal(steps));
  EXPECT_EQ(both.slice(0, 0, 2).max().item<int>(), 0);
}

// An sbix font has no other place for a picture's size than the picture.
TEST(EmojiFont, RefusesAPictureThatTakesGigabytes) {
  const EmojiFont font(sbix_font());
  EXPECT_EQ(font.find("😀"), 1U);
  EXPECT_TRUE(font.picture(1).equal(even_picture({255, 0, 0, 255})));
  EXPECT_EQ(font.find("❤"), std::nullopt);
  EXPECT_THAT(message_of<UserError>([&] { font.picture(2); }),
              HasSubstr("glyph 2 has no picture of at most 1024 x 1024 pixels"));
}

class DamagedFont : public testing::Test {
 protected:
  // What is said of the font, or nothing if it can be used.
  std::string use(const std::string& bytes) const {
    write_text(folder_ / "a.ttf", bytes);
    try {
      const EmojiFont font(folder_ / "a.ttf");
      for (const char* text : {"😀", "😀❤"})
        if (const auto glyph = font.find(text)) font.picture(*glyph);
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  }
  TempFolder folder_;
  std::string whole_ = read_text(golden_font());
};

TEST_F(DamagedFont, IsRefusedOrUsed) {
  for (std::size_t at = 0; at < whole_.size(); ++at)
    for (const unsigned char flip : {0x01, 0x80, 0xFF}) {
      std::string damaged = whole_;
      damaged[at] = static_cast<char>(static_cast<unsigned char>(damaged[at]) ^ flip);
      const std::string said = use(damaged);
      if (said.empty()) continue;
      EXPECT_THAT(said, AllOf(HasSubstr("a.ttf' is not a font of colour emoji: "),
                              HasSubstr("halftone data fetch emoji")));
    }
  for (std::size_t bytes = 0; bytes < whole_.size(); ++bytes) use(whole_.substr(0, bytes));
}

TEST_F(DamagedFont, WhosePictureHasAnotherSizeThanItsMetricsIsRefused) {
  const std::size_t header = whole_.find("IHDR");
  for (const char width : {3, 5}) {
    std::string damaged = whole_;
    damaged[header + 7] = width;
    const auto* const bytes = reinterpret_cast<const Bytef*>(damaged.data() + header);
    const auto crc = static_cast<std::uint32_t>(crc32(0, bytes, 17));
    for (unsigned i = 0; i < 4; ++i)
      damaged[header + 17 + i] = static_cast<char>(crc >> (24 - 8 * i));
    EXPECT_THAT(use(damaged), HasSubstr("glyph 1 is blank, or its PNG is not of 4 x 3 pixels"));
  }
}

TEST_F(DamagedFont, IsNamed) {
  EXPECT_THAT(use(""), HasSubstr("a.ttf' is not a font of colour emoji"));
  EXPECT_THAT(use("no font"), HasSubstr("a.ttf' is not a font of colour emoji"));
  EXPECT_THAT(use(whole_.substr(0, 100)), HasSubstr("a.ttf' is not a font of colour emoji"));
  std::string damaged = whole_;
  damaged[damaged.find("IDAT") + 8] ^= 0x55;
  EXPECT_THAT(use(damaged), HasSubstr("glyph 1: "));
  EXPECT_THAT(message_of<UserError>([&] { EmojiFont font(folder_ / "none.ttf"); }),
              HasSubstr("none.ttf"));
}

}  // namespace
}  // namespace halftone::emoji_font_test
