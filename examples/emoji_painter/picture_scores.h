// SPDX-License-Identifier: Apache-2.0
// What painted emoji resemble: scores by the nearest picture of the data.
#pragma once

#include <halftone/media/emoji_set.h>
#include <halftone/media/picture.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

/// Emoji that painted ones are compared with, in 32 by 32 pixels.
class NearestEmoji {
 public:
  NearestEmoji(const std::shared_ptr<const halftone::EmojiSet>& set,
               const std::vector<std::int64_t>& candidates)
      : set_(set),
        candidates_(candidates),
        pictures_(set->pictures(candidates, {.side = kSide}).to(torch::kFloat).flatten(1) / 255) {
    std::map<std::string, std::size_t> uses;
    for (const std::int64_t emoji : candidates)
      for (const std::string& word : words_of((*set)[emoji].english)) ++uses[word];
    for (const auto& [word, count] : uses)
      if (count > candidates.size() / 20) common_.insert(word);
  }

  /// The share of `painted` (N, 3, H, W) in 0..1, which stand for the emoji `meant`, whose nearest
  /// candidate is of the same family.
  double own_family(const torch::Tensor& painted, const std::vector<std::int64_t>& meant) const {
    const std::vector<std::int64_t> nearest = nearest_to(painted);
    double own = 0;
    for (std::size_t i = 0; i < meant.size(); ++i)
      own += (*set_)[nearest[i]].family == (*set_)[meant[i]].family ? 1 : 0;
    return own / static_cast<double>(meant.size());
  }

  /// `nearest`: the share whose nearest candidate has a word of its name or keywords in common with
  /// the emoji that was meant; `chance`: the same of a candidate drawn at random. Words that more
  /// than a twentieth of the candidates have do not count.
  struct SharedWord {
    double nearest = 0;
    double chance = 0;
  };
  SharedWord shared_word(const torch::Tensor& painted,
                         const std::vector<std::int64_t>& meant) const {
    const std::vector<std::int64_t> nearest = nearest_to(painted);
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
      share.nearest += shares(nearest[i]) ? each : 0;
      share.chance +=
          each *
          static_cast<double>(std::count_if(candidates_.begin(), candidates_.end(), shares)) /
          static_cast<double>(candidates_.size());
    }
    return share;
  }

 private:
  static constexpr std::int64_t kSide = 32;

  /// The words of a name and its keywords that have three letters or more.
  static std::set<std::string> words_of(const halftone::EmojiName& name) {
    std::set<std::string> words;
    std::string text = name.name;
    for (const std::string& keyword : name.keywords) text += " " + keyword;
    std::string word;
    for (const char letter : text + " ") {
      if (std::isalnum(static_cast<unsigned char>(letter)) != 0) {
        word += static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
        continue;
      }
      if (word.size() >= 3) words.insert(word);
      word.clear();
    }
    return words;
  }

  /// The emoji whose picture differs least, by the sum of squares.
  std::vector<std::int64_t> nearest_to(const torch::Tensor& painted) const {
    const torch::Tensor small = halftone::resized_picture(painted, kSide, kSide).flatten(1);
    const torch::Tensor places = torch::cdist(small, pictures_).argmin(1);
    std::vector<std::int64_t> nearest;
    for (std::int64_t i = 0; i < places.size(0); ++i)
      nearest.push_back(candidates_[static_cast<std::size_t>(places[i].item<std::int64_t>())]);
    return nearest;
  }

  std::shared_ptr<const halftone::EmojiSet> set_;
  std::vector<std::int64_t> candidates_;
  torch::Tensor pictures_;
  std::set<std::string> common_;
};
