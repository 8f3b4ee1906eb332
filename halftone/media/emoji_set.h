// SPDX-License-Identifier: Apache-2.0
// Emoji with their pictures, names and keywords: the data set `emoji` of `halftone data fetch`.
#pragma once

#include <torch/data/example.h>
#include <torch/types.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "halftone/data/sample_part.h"

namespace halftone {

class EmojiFont;

/// What it is called in one language.
struct EmojiName {
  std::string name;  ///< "grinning face"
  std::vector<std::string> keywords;
};

struct Emoji {
  std::string text;  ///< UTF-8 without U+FE0F; of a sequence all of it
  std::string code;  ///< "1F600", "1F44B-1F3FB"
  EmojiName english;
  EmojiName chinese;
  /// The same for all that are forms of one: other tones of skin, genders, hair, or the same
  /// picture under another text.
  std::string family;
  std::uint32_t glyph = 0;
};

/// How a picture is drawn: `side` x `side` pixels, on `ground` (red, green, blue).
struct EmojiPicture {
  std::int64_t side = 64;
  std::array<std::uint8_t, 3> ground = {255, 255, 255};
};

/// All emoji that the font draws as one picture and that have a name in English and in Chinese;
/// in CLDR's order. Every method is safe to call from several threads.
class EmojiSet {
 public:
  /// Reads NotoColorEmoji.ttf, annotations/ and annotationsDerived/ of `folder` (fetch_dataset
  /// ("emoji") returns it). Throws UserError that names the file that is missing or damaged.
  explicit EmojiSet(const std::filesystem::path& folder);
  ~EmojiSet();
  EmojiSet(EmojiSet&&) noexcept;
  EmojiSet& operator=(EmojiSet&&) noexcept;

  std::int64_t size() const { return static_cast<std::int64_t>(emoji_.size()); }
  /// REQUIRES 0 <= index < size(), as all that take an index.
  const Emoji& operator[](std::int64_t index) const;
  /// The index of the emoji with this text, with or without U+FE0F; -1: there is none.
  std::int64_t find(std::string_view text) const;

  /// uint8 (3, side, side). The font's picture (136 x 128) is centred on a square, resampled with
  /// its alpha (resized_picture() of picture.h), and laid over the ground; in sRGB, as the web
  /// does.
  torch::Tensor picture(std::int64_t index, const EmojiPicture& how = {}) const;
  /// The pictures of `indices` as (N, 3, side, side): 12 kB each at 64 x 64.
  torch::Tensor pictures(const std::vector<std::int64_t>& indices,
                         const EmojiPicture& how = {}) const;

  /// The indices of a part, in order. A family is held out as a whole; which ones are is a function
  /// of the part's seed and share and of the family's text alone.
  std::vector<std::int64_t> part(const SamplePart& part) const;
  /// Those of all that show no tone of skin, in order.
  std::vector<std::int64_t> without_skin_tones() const;
  /// Of the texts, names and keywords of all: differs when the data does.
  std::string fingerprint() const;

 private:
  std::vector<Emoji> emoji_;
  std::unordered_map<std::string, std::int64_t> places_;  // by text
  std::unique_ptr<const EmojiFont> font_;
};

/// Pictures of some emoji as samples for a DataLoader: data is uint8 (3, side, side), target the
/// index in the set, int64. They are drawn when they are asked for, in about a millisecond.
class EmojiPictures {
 public:
  EmojiPictures(std::shared_ptr<const EmojiSet> set, std::vector<std::int64_t> indices,
                EmojiPicture how = {});

  std::int64_t size() const { return static_cast<std::int64_t>(indices_.size()); }
  torch::data::Example<> get(std::int64_t index) const;
  std::string fingerprint() const;

 private:
  std::shared_ptr<const EmojiSet> set_;
  std::vector<std::int64_t> indices_;
  EmojiPicture how_;
};

}  // namespace halftone
