// SPDX-License-Identifier: Apache-2.0
#include "halftone/media/emoji_set.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/minimum.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/media/annotations.h"
#include "halftone/media/emoji_family.h"
#include "halftone/media/emoji_font.h"
#include "halftone/media/picture.h"
#include "halftone/system/hash.h"

namespace halftone {
namespace {

namespace fs = std::filesystem;

constexpr double kOpaque = 255;

using NamesByText = std::unordered_map<std::string, EmojiName>;

// Of both files of a language, in their order.
std::vector<Annotation> annotations_of(const fs::path& folder, const std::string& file) {
  std::vector<Annotation> all;
  for (const char* part : {"annotations", "annotationsDerived"}) {
    const fs::path path = folder / part / file;
    if (!fs::exists(path))
      throw UserError(
          fmt::format("'{}' has no {}/{}; 'halftone data fetch emoji' prints a folder that has it",
                      folder.string(), part, file));
    for (Annotation& one : read_annotations(path)) {
      one.text = without_selectors(one.text);
      all.push_back(std::move(one));
    }
  }
  return all;
}

NamesByText names_by_text(std::vector<Annotation> annotations) {
  NamesByText names;
  for (Annotation& one : annotations)
    names.try_emplace(one.text, EmojiName{std::move(one.name), std::move(one.keywords)});
  return names;
}

/// Makes one family of two that share a picture.
class Families {
 public:
  std::string root_of(const std::string& family) const {
    const auto joined = parents_.find(family);
    return joined == parents_.end() ? family : root_of(joined->second);
  }
  void add(const Emoji& emoji) {
    const std::string root = root_of(emoji.family);
    const auto [place, is_new] = by_glyph_.try_emplace(emoji.glyph, root);
    if (const std::string other = root_of(place->second); other != root) parents_[root] = other;
  }

 private:
  std::map<std::string, std::string> parents_;
  std::map<std::uint32_t, std::string> by_glyph_;
};

std::unique_ptr<const EmojiFont> open_font(const fs::path& folder) {
  const fs::path path = folder / "NotoColorEmoji.ttf";
  if (!fs::exists(path))
    throw UserError(
        fmt::format("'{}' has no NotoColorEmoji.ttf; 'halftone data fetch emoji' prints a folder "
                    "that has it",
                    folder.string()));
  return std::make_unique<const EmojiFont>(path);
}

// (4, H, W) of any H and W -> (4, S, S), in the middle of nothing.
torch::Tensor centred(const torch::Tensor& picture) {
  const std::int64_t height = picture.size(1);
  const std::int64_t width = picture.size(2);
  const std::int64_t side = std::max(height, width);
  const std::int64_t left = (side - width) / 2;
  const std::int64_t top = (side - height) / 2;
  return at::constant_pad_nd(picture, {left, side - width - left, top, side - height - top});
}

// `picture`: fp32 (4, S, S), 0..255, colours multiplied by alpha, which the filter may have
// overshot.
torch::Tensor laid_over(const torch::Tensor& picture, const std::array<std::uint8_t, 3>& ground) {
  const torch::Tensor alpha = picture.slice(0, 3).clamp(0, kOpaque);
  const torch::Tensor colours = at::minimum(picture.slice(0, 0, 3).clamp_min(0), alpha);
  const torch::Tensor below =
      torch::tensor({ground[0], ground[1], ground[2]}, torch::kFloat).reshape({3, 1, 1});
  return (colours + below * (1 - alpha / kOpaque)).round_().clamp_(0, kOpaque).to(torch::kByte);
}

}  // namespace

EmojiSet::EmojiSet(const fs::path& folder) : font_(open_font(folder)) {
  const NamesByText chinese = names_by_text(annotations_of(folder, "zh.xml"));
  Families families;
  for (Annotation& one : annotations_of(folder, "en.xml")) {
    const auto other = chinese.find(one.text);
    if (other == chinese.end() || places_.contains(one.text)) continue;
    const auto glyph = font_->find(one.text);
    if (!glyph) continue;
    places_.emplace(one.text, size());
    emoji_.push_back({.text = one.text,
                      .code = code_of_text(one.text),
                      .english = {std::move(one.name), std::move(one.keywords)},
                      .chinese = other->second,
                      .family = family_of_text(one.text),
                      .glyph = *glyph});
    families.add(emoji_.back());
  }
  for (Emoji& one : emoji_) one.family = families.root_of(one.family);
  if (emoji_.empty())
    throw UserError(fmt::format(
        "the font in '{}' has no picture of any emoji that is named; fetch it again with 'halftone "
        "data fetch emoji'",
        folder.string()));
}

EmojiSet::~EmojiSet() = default;
EmojiSet::EmojiSet(EmojiSet&&) noexcept = default;
EmojiSet& EmojiSet::operator=(EmojiSet&&) noexcept = default;

const Emoji& EmojiSet::operator[](std::int64_t index) const {
  HALFTONE_CHECK(index >= 0 && index < size(), "[emoji_set] expected an index from 0 to ",
                 size() - 1, ", got ", index);
  return emoji_[static_cast<std::size_t>(index)];
}

std::int64_t EmojiSet::find(std::string_view text) const {
  const auto place = places_.find(without_selectors(text));
  return place == places_.end() ? -1 : place->second;
}

torch::Tensor EmojiSet::picture(std::int64_t index, const EmojiPicture& how) const {
  HALFTONE_CHECK(how.side >= 1, "[emoji_set] expected a side of at least 1, got ", how.side);
  const torch::Tensor square = centred(font_->picture((*this)[index].glyph)).to(torch::kFloat);
  return laid_over(resized_picture(square, how.side, how.side), how.ground);
}

torch::Tensor EmojiSet::pictures(const std::vector<std::int64_t>& indices,
                                 const EmojiPicture& how) const {
  torch::Tensor all =
      at::empty({static_cast<std::int64_t>(indices.size()), 3, how.side, how.side}, torch::kByte);
  std::int64_t row = 0;
  for (const std::int64_t index : indices) all[row++].copy_(picture(index, how));
  return all;
}

std::vector<std::int64_t> EmojiSet::part(const SamplePart& part) const {
  std::vector<std::int64_t> indices;
  for (std::int64_t i = 0; i < size(); ++i)
    if (part.has(hash_bytes((*this)[i].family))) indices.push_back(i);
  return indices;
}

std::vector<std::int64_t> EmojiSet::without_skin_tones() const {
  std::vector<std::int64_t> indices;
  for (std::int64_t i = 0; i < size(); ++i)
    if (!has_skin_tone((*this)[i].text)) indices.push_back(i);
  return indices;
}

std::string EmojiSet::fingerprint() const {
  Hasher hasher;
  for (const Emoji& one : emoji_)
    for (const EmojiName* name : {&one.english, &one.chinese}) {
      hasher.update_field(one.text);
      hasher.update_field(name->name);
      for (const std::string& word : name->keywords) hasher.update_field(word);
    }
  return fmt::format("{} emoji {:016x}", size(), hasher.digest());
}

EmojiPictures::EmojiPictures(std::shared_ptr<const EmojiSet> set, std::vector<std::int64_t> indices,
                             EmojiPicture how)
    : set_(std::move(set)), indices_(std::move(indices)), how_(how) {
  HALFTONE_CHECK(set_ != nullptr, "[emoji_set] expected a set");
  for (const std::int64_t index : indices_) (*set_)[index];  // checks it
}

torch::data::Example<> EmojiPictures::get(std::int64_t index) const {
  HALFTONE_CHECK(index >= 0 && index < size(), "[emoji_set] expected an index from 0 to ",
                 size() - 1, ", got ", index);
  const std::int64_t emoji = indices_[static_cast<std::size_t>(index)];
  return {set_->picture(emoji, how_), torch::tensor(emoji)};
}

std::string EmojiPictures::fingerprint() const {
  Hasher hasher;
  for (const std::int64_t index : indices_) hasher.update_field((*set_)[index].code);
  return fmt::format("{}, {} of them {:016x}, {} pixels on {} {} {}", set_->fingerprint(), size(),
                     hasher.digest(), how_.side, how_.ground[0], how_.ground[1], how_.ground[2]);
}

}  // namespace halftone
