// SPDX-License-Identifier: Apache-2.0
// The cases that need the data take what `halftone data fetch emoji` left in the cache.
#include "halftone/media/emoji_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <thread>

#include "halftone/core/error.h"
#include "halftone/data/data_loader.h"
#include "halftone/media/emoji_family.h"
#include "halftone/media/emoji_font.h"
#include "halftone/media/emoji_likeness.h"
#include "halftone/media/png_file.h"
#include "halftone/system/hash.h"
#include "halftone/system/paths.h"
#include "support/temp_folder.h"

namespace halftone::emoji_set_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::read_text;
using test::TempFolder;
using test::write_text;
using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;

TEST(EmojiFamily, JoinsTheFormsOfOne) {
  const std::vector<std::vector<std::string>> families = {
      {"👋", "👋🏻", "👋🏿"},
      {"🏃", "🏃‍♂️", "🏃🏽‍♀️"},
      {"🧑‍🚀", "👨‍🚀", "👩🏿‍🚀"},
      {"🧑", "👨", "👩🏻", "👨‍🦰", "🧒", "👴", "🧔‍♂️", "👱"},
      {"👪", "👨‍👩‍👧", "👩‍👩‍👦‍👦"},
      {"💑", "👩‍❤️‍👨", "👨🏻‍❤️‍👨🏿"},
      {"💏", "👩‍❤️‍💋‍👨"},
      {"👫", "👬", "👭🏽", "🧑‍🤝‍🧑", "🧑🏻‍🤝‍🧑🏿"},
      {"🎅", "🤶", "🧑🏽‍🎄"},
      {"🤝", "🤝🏽", "🫱🏻‍🫲🏿"},
      {"❤", "❤️"},
      {"🏻"},
      {"🏿"},
      {"♂"},
      {"♀"},
      {"🇨🇳"},
      {"🇨🇭"},
      {"👍"},
      {"👎"},
      {"❤‍🔥"},
      {"🦰"}};
  std::map<std::string, std::size_t> seen;
  for (std::size_t i = 0; i < families.size(); ++i)
    for (const std::string& text : families[i]) {
      const auto [place, is_new] = seen.try_emplace(family_of_text(text), i);
      EXPECT_EQ(place->second, i) << text << " is in " << place->first;
      EXPECT_EQ(is_new, text == families[i][0]) << text;
    }
}

TEST(EmojiFamily, WritesCodes) {
  EXPECT_EQ(code_of_text("👋🏻"), "1F44B-1F3FB");
  EXPECT_EQ(code_of_text("#⃣"), "0023-20E3");
  EXPECT_EQ(without_selectors("❤️x️"), "❤x");
  EXPECT_TRUE(has_skin_tone("👋🏻"));
  EXPECT_FALSE(has_skin_tone("👋"));
  EXPECT_FALSE(has_skin_tone("🏻"));
}

fs::path fetched() { return cache_folder() / "data/emoji"; }

class FetchedEmoji : public testing::Test {
 protected:
  static std::shared_ptr<const EmojiSet> set() {
    static const auto all = std::make_shared<const EmojiSet>(fetched());
    return all;
  }
  void SetUp() override {
    if (!fs::exists(fetched() / "NotoColorEmoji.ttf"))
      GTEST_SKIP() << "needs 'halftone data fetch emoji'";
  }
};

TEST_F(FetchedEmoji, HaveNamesAndKeywords) {
  ASSERT_GE(set()->size(), 3'500);
  const std::int64_t grin = set()->find("😀");
  ASSERT_GE(grin, 0);
  const Emoji& emoji = (*set())[grin];
  EXPECT_EQ(emoji.code, "1F600");
  EXPECT_EQ(emoji.english.name, "grinning face");
  EXPECT_EQ(emoji.chinese.name, "嘿嘿");
  EXPECT_THAT(emoji.english.keywords, AllOf(Contains("face"), Contains("grin")));
  EXPECT_THAT(emoji.chinese.keywords, Contains("笑脸"));
  for (const char* sequence : {"👋🏿", "🇨🇳", "#️⃣", "👨‍👩‍👧‍👦",
                               "🏳️‍🌈", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "🧑🏽‍🚀"})
    EXPECT_GE(set()->find(sequence), 0) << sequence;
  EXPECT_EQ(set()->find("{"), -1);
  EXPECT_EQ(set()->find(""), -1);
  EXPECT_EQ((*set())[set()->find("🇨🇳")].english.name, "flag: China");
  EXPECT_THROW((*set())[set()->size()], c10::Error);
}

TEST_F(FetchedEmoji, AreDrawnOnAnyGround) {
  const std::int64_t heart = set()->find("❤");
  ASSERT_GE(heart, 0);
  const torch::Tensor on_white = set()->picture(heart);
  ASSERT_EQ(on_white.sizes(), torch::IntArrayRef({3, 64, 64}));
  const auto pixel = [](const torch::Tensor& picture, int y, int x) {
    return picture.select(1, y).select(1, x).to(torch::kInt);
  };
  EXPECT_TRUE(pixel(on_white, 0, 0).equal(torch::tensor({255, 255, 255}, torch::kInt)));
  const torch::Tensor red = pixel(on_white, 32, 32);  // the middle of the heart
  EXPECT_GT(red[0].item<int>(), 150);
  EXPECT_LT(red[1].item<int>(), 110);
  EXPECT_LT(red[2].item<int>(), 110);
  const torch::Tensor on_blue = set()->picture(heart, {.ground = {10, 20, 200}});
  EXPECT_TRUE(pixel(on_blue, 0, 0).equal(torch::tensor({10, 20, 200}, torch::kInt)));
  EXPECT_TRUE(pixel(on_blue, 32, 32).equal(red));
}

// With c the colour times alpha, white gives c + 255 - a, black c, and grey what lies between: the
// share of any ground follows from two others.
TEST_F(FetchedEmoji, AreBlendedWithTheGround) {
  for (const char* text : {"😀", "👻", "🌈"}) {
    const std::int64_t index = set()->find(text);
    const auto on = [&](std::uint8_t grey) {
      return set()->picture(index, {.side = 48, .ground = {grey, grey, grey}}).to(torch::kFloat);
    };
    const torch::Tensor share = (on(255) - on(0)) / 255;  // 1 - alpha
    EXPECT_GE(share.min().item<double>(), 0);
    EXPECT_GT(share.gt(0.1).logical_and(share.lt(0.9)).sum().item<int>(), 20) << "soft edges";
    const torch::Tensor expected = on(0) + share * 100;
    EXPECT_LE((on(100) - expected).abs().max().item<double>(), 1.0) << text;
  }
}

TEST_F(FetchedEmoji, OfTheFontsOwnSizeAreTheFontsPixels) {
  const std::int64_t index = set()->find("😀");
  const EmojiFont font(fetched() / "NotoColorEmoji.ttf");
  const torch::Tensor premultiplied = font.picture((*set())[index].glyph);
  ASSERT_EQ(premultiplied.sizes(), torch::IntArrayRef({4, 128, 136}));
  const torch::Tensor picture = set()->picture(index, {.side = 136, .ground = {0, 0, 0}});
  EXPECT_TRUE(picture.slice(1, 4, 132).equal(premultiplied.slice(0, 0, 3)));
  EXPECT_EQ(picture.slice(1, 0, 4).max().item<int>(), 0);
  EXPECT_TRUE(premultiplied.slice(0, 0, 3).le(premultiplied.slice(0, 3)).all().item<bool>());
}

TEST_F(FetchedEmoji, KeepAFamilyOnOneSide) {
  const SamplePart held{.side = SamplePart::Side::kHeldOut, .share = 0.2, .seed = 5};
  SamplePart others = held;
  others.side = SamplePart::Side::kOthers;
  const auto test = set()->part(held);
  const auto train = set()->part(others);
  EXPECT_EQ(std::ssize(test) + std::ssize(train), set()->size());
  EXPECT_NEAR(static_cast<double>(test.size()) / static_cast<double>(set()->size()), 0.2, 0.05);
  std::set<std::string> families;
  std::set<std::uint32_t> glyphs;
  for (const std::int64_t index : test) {
    families.insert((*set())[index].family);
    glyphs.insert((*set())[index].glyph);
  }
  for (const std::int64_t index : train) {
    EXPECT_FALSE(families.contains((*set())[index].family)) << (*set())[index].code;
    EXPECT_FALSE(glyphs.contains((*set())[index].glyph)) << (*set())[index].code;
  }
  EXPECT_EQ(set()->part(held), test);
  EXPECT_NE(set()->part({.side = held.side, .share = 0.2, .seed = 6}), test);
  EXPECT_EQ(std::ssize(set()->part({})), set()->size());
}

// Without a tone of skin in the name, a name is of one family only.
TEST_F(FetchedEmoji, LeakNoNameIntoTheOtherSide) {
  const auto stem = [](const std::string& name) {
    const std::size_t tone = name.find(" skin tone");
    return tone == std::string::npos ? name : name.substr(0, name.find(':'));
  };
  std::map<std::string, std::string> family_of_stem;
  for (std::int64_t i = 0; i < set()->size(); ++i) {
    const Emoji& emoji = (*set())[i];
    if (!has_skin_tone(emoji.text)) continue;
    const auto [place, is_new] = family_of_stem.try_emplace(stem(emoji.english.name), emoji.family);
    EXPECT_EQ(place->second, emoji.family) << emoji.english.name;
  }
  EXPECT_GT(family_of_stem.size(), 100U);
  EXPECT_EQ((*set())[set()->find("🇳🇴")].family, (*set())[set()->find("🇧🇻")].family);
}

// So is a picture, pixel by pixel.
TEST_F(FetchedEmoji, LeakNoPictureIntoTheOtherSide) {
  const EmojiFont font(fetched() / "NotoColorEmoji.ttf");
  std::set<std::uint32_t> glyphs;
  std::map<std::uint64_t, std::int64_t> first_of_picture;
  for (std::int64_t i = 0; i < set()->size(); ++i) {
    const Emoji& emoji = (*set())[i];
    if (!glyphs.insert(emoji.glyph).second) continue;  // KeepAFamilyOnOneSide compares glyphs
    const torch::Tensor picture = font.picture(emoji.glyph);
    const auto hash = hash_bytes({reinterpret_cast<const char*>(picture.const_data_ptr()),
                                  static_cast<std::size_t>(picture.numel())});
    const auto [place, is_new] = first_of_picture.try_emplace(hash, i);
    const Emoji& first = (*set())[place->second];
    EXPECT_EQ(first.family, emoji.family) << first.code << " looks like " << emoji.code;
  }
  EXPECT_GT(first_of_picture.size(), 3'000U);
}

TEST_F(FetchedEmoji, AreBatchesOfALoader) {
  const auto indices = set()->without_skin_tones();
  EXPECT_GT(indices.size(), 1'500U);
  DataLoader loader(EmojiPictures(set(), indices, {.side = 16}),
                    {.batch_size = 8, .num_workers = 2});
  const auto batch = loader.batch_at(3);
  ASSERT_EQ(batch.data.sizes(), torch::IntArrayRef({8, 3, 16, 16}));
  ASSERT_EQ(batch.target.sizes(), torch::IntArrayRef({8}));
  for (std::int64_t row = 0; row < 8; ++row)
    EXPECT_TRUE(batch.data[row].equal(
        set()->picture(batch.target[row].item<std::int64_t>(), {.side = 16})));
  EXPECT_THAT(std::get<std::string>(loader.state_dict().values.at("data")), HasSubstr("16 pixels"));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] { EXPECT_TRUE(loader.batch_at(3).data.equal(batch.data)); });
  for (std::thread& thread : threads) thread.join();
}

TEST_F(FetchedEmoji, OfADamagedFontAreRefused) {
  const TempFolder folder;
  const std::string font = read_text(fetched() / "NotoColorEmoji.ttf");
  const auto error_of = [&](const std::string& bytes) {
    write_text(folder / "a.ttf", bytes);
    return message_of<UserError>([&] {
      const EmojiFont read(folder / "a.ttf");
      const auto glyph = read.find("😀");
      if (glyph) read.picture(*glyph);
      throw UserError("read: a.ttf");
    });
  };
  for (const std::size_t bytes : {0, 1, 11, 12, 100, 5'000, 100'000, 4'000'000})
    EXPECT_THAT(error_of(font.substr(0, bytes)), HasSubstr("a.ttf")) << bytes;
  EXPECT_THAT(error_of(font.substr(0, 100)),
              AllOf(HasSubstr("a.ttf' is not a font of colour emoji: "),
                    HasSubstr("halftone data fetch emoji")));
  std::uint32_t state = 1;
  for (int i = 0; i < 40; ++i) {
    std::string damaged = font;
    for (int times = 0; times < 50; ++times) {
      state = state * 1664525U + 1013904223U;
      damaged[state % (times < 25 ? 20'000 : font.size())] = static_cast<char>(state >> 24U);
    }
    EXPECT_THAT(error_of(damaged), HasSubstr("a.ttf"));
  }
}

TEST(NearestPictures, AreThoseOfTheLeastSquares) {
  torch::manual_seed(1);
  const torch::Tensor candidates = torch::rand({9, 3, 4, 5});
  const torch::Tensor pictures = torch::rand({6, 3, 4, 5});
  const torch::Tensor nearest = nearest_pictures(pictures, candidates);
  for (std::int64_t i = 0; i < 6; ++i) {
    const torch::Tensor away =
        (candidates - pictures[i]).to(torch::kDouble).square().flatten(1).sum(1);
    EXPECT_EQ(nearest[i].item<std::int64_t>(), away.argmin().item<std::int64_t>());
  }
  const torch::Tensor large =
      candidates.repeat_interleave(2, 2).repeat_interleave(2, 3).index_select(
          0, torch::tensor({4, 0, 8}));
  EXPECT_TRUE(nearest_pictures(large, candidates).equal(torch::tensor({4, 0, 8})));
  const torch::Tensor twice = torch::cat({candidates, candidates});
  EXPECT_TRUE(nearest_pictures(candidates, twice).equal(torch::arange(9)));
  EXPECT_THROW(nearest_pictures(pictures, candidates.slice(0, 0, 0)), c10::Error);
}

TEST_F(FetchedEmoji, AreLikeThemselves) {
  std::vector<std::int64_t> some;
  for (const char* text : {"😀", "🐙", "❤", "💙", "🐱", "🚗", "🇨🇳"}) some.push_back(set()->find(text));
  const EmojiLikeness likeness(set(), some);
  const torch::Tensor pictures = set()->pictures(some, {.side = 64}).to(torch::kFloat) / 255;
  EXPECT_EQ(likeness.nearest(pictures), some);
  EXPECT_EQ(likeness.own_family(pictures, some), 1.0);
  // Each is taken for the one before it: families differ, and hearts share a word.
  const std::vector<std::int64_t> next = {some[1], some[2], some[3], some[2],
                                          some[0], some[0], some[0]};
  EXPECT_EQ(likeness.own_family(pictures, next), 0.0);
  EXPECT_THROW(likeness.own_family(pictures, {some[0]}), c10::Error);
}

// With forty candidates a word of three is common, one of two is not.
TEST_F(FetchedEmoji, ShareWordsThatAreNotCommon) {
  std::vector<std::int64_t> many;
  for (const std::int64_t i : set()->without_skin_tones()) {
    if ((*set())[i].english.name.find("flag: ") == 0) many.push_back(i);
    if (many.size() == 38) break;
  }
  const std::int64_t red = set()->find("❤"), blue = set()->find("💙");
  many.push_back(red);
  many.push_back(blue);
  const EmojiLikeness likeness(set(), many);
  const torch::Tensor of_red = set()->pictures({red, many[0]}).to(torch::kFloat) / 255;
  const auto shared = likeness.shared_word(of_red, {blue, many[1]});
  EXPECT_EQ(shared.nearest, 0.5);                         // "heart"; "flag" is common
  EXPECT_EQ(shared.chance, 0.5 * 2 / 40 + 0.5 * 1 / 40);  // both hearts; the flag itself
}

TEST(EmojiSet, NamesTheFileThatIsMissing) {
  const TempFolder folder;
  EXPECT_THAT(
      message_of<UserError>([&] { EmojiSet set(folder.path()); }),
      AllOf(HasSubstr("has no NotoColorEmoji.ttf"), HasSubstr("halftone data fetch emoji")));
}

}  // namespace
}  // namespace halftone::emoji_set_test
