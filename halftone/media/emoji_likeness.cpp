// SPDX-License-Identifier: Apache-2.0
#include "halftone/media/emoji_likeness.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <map>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/media/picture.h"

namespace halftone {
namespace {

/// The words of a name and its keywords that have three letters or more.
std::set<std::string> words_of(const EmojiName& name) {
  constexpr std::size_t kShortest = 3;
  std::set<std::string> words;
  std::string text = name.name;
  for (const std::string& keyword : name.keywords) text += " " + keyword;
  std::string word;
  for (const char letter : text + " ") {
    if (std::isalnum(static_cast<unsigned char>(letter)) != 0) {
      word += static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
      continue;
    }
    if (word.size() >= kShortest) words.insert(word);
    word.clear();
  }
  return words;
}

void check_meant(const torch::Tensor& pictures, const std::vector<std::int64_t>& meant) {
  HALFTONE_CHECK(!meant.empty() && pictures.size(0) == std::ssize(meant),
                 "[EmojiLikeness] expected a picture of each of ", meant.size(),
                 " emoji, at least one, got ", pictures.size(0), " pictures");
}

}  // namespace

torch::Tensor nearest_pictures(const torch::Tensor& pictures, const torch::Tensor& candidates) {
  HALFTONE_CHECK(pictures.dim() == 4 && candidates.dim() == 4 && candidates.size(0) > 0 &&
                     pictures.size(1) == candidates.size(1),
                 "[nearest_pictures] expected (N, C, H, W) and at least one of (M, C, h, w), got ",
                 pictures.sizes(), " and ", candidates.sizes());
  constexpr std::int64_t kWithoutMatmul = 2;  // whose differences of squares cancel near 0
  const torch::Tensor same = resized_picture(pictures, candidates.size(2), candidates.size(3));
  return torch::cdist(same.flatten(1), candidates.flatten(1), 2.0, kWithoutMatmul).argmin(1);
}

EmojiLikeness::EmojiLikeness(std::shared_ptr<const EmojiSet> set,
                             std::vector<std::int64_t> candidates)
    : set_(std::move(set)), candidates_(std::move(candidates)) {
  constexpr std::int64_t kSide = 32;
  constexpr std::size_t kCommon = 20;
  pictures_ = set_->pictures(candidates_, {.side = kSide}).to(torch::kFloat) / 255;
  std::map<std::string, std::size_t> uses;
  for (const std::int64_t emoji : candidates_)
    for (const std::string& word : words_of((*set_)[emoji].english)) ++uses[word];
  for (const auto& [word, count] : uses)
    if (count > candidates_.size() / kCommon) common_.insert(word);
}

std::vector<std::int64_t> EmojiLikeness::nearest(const torch::Tensor& pictures) const {
  const torch::Tensor places = nearest_pictures(pictures, pictures_);
  std::vector<std::int64_t> emoji;
  for (std::int64_t i = 0; i < places.size(0); ++i)
    emoji.push_back(candidates_[static_cast<std::size_t>(places[i].item<std::int64_t>())]);
  return emoji;
}

double EmojiLikeness::own_family(const torch::Tensor& pictures,
                                 const std::vector<std::int64_t>& meant) const {
  check_meant(pictures, meant);
  const std::vector<std::int64_t> near = nearest(pictures);
  double own = 0;
  for (std::size_t i = 0; i < meant.size(); ++i)
    own += (*set_)[near[i]].family == (*set_)[meant[i]].family ? 1 : 0;
  return own / static_cast<double>(meant.size());
}

EmojiLikeness::SharedWord EmojiLikeness::shared_word(const torch::Tensor& pictures,
                                                     const std::vector<std::int64_t>& meant) const {
  check_meant(pictures, meant);
  const std::vector<std::int64_t> near = nearest(pictures);
  SharedWord share;
  const double each = 1.0 / static_cast<double>(meant.size());
  for (std::size_t i = 0; i < meant.size(); ++i) {
    const std::set<std::string> wanted = words_of((*set_)[meant[i]].english);
    const auto shares = [&](std::int64_t emoji) {
      const std::set<std::string> words = words_of((*set_)[emoji].english);
      return std::any_of(words.begin(), words.end(), [&](const std::string& word) {
        return wanted.contains(word) && !common_.contains(word);
      });
    };
    share.nearest += shares(near[i]) ? each : 0;
    share.chance +=
        each * static_cast<double>(std::count_if(candidates_.begin(), candidates_.end(), shares)) /
        static_cast<double>(candidates_.size());
  }
  return share;
}

}  // namespace halftone
