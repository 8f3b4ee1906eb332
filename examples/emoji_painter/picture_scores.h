// SPDX-License-Identifier: Apache-2.0
// What painted emoji resemble: a score by the nearest picture of the data.
#pragma once

#include <halftone/media/emoji_set.h>
#include <halftone/media/picture.h>

#include <cctype>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

/// The words of an English name and its keywords that have three letters or more.
inline std::set<std::string> words_of(const halftone::EmojiName& name) {
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

/// For each of `painted` (N, 3, H, W) in 0..1 the index in `candidates` of the emoji whose picture
/// differs least, in squares of 32 by 32 pixels.
inline std::vector<std::size_t> nearest_emoji(const torch::Tensor& painted,
                                              const halftone::EmojiSet& set,
                                              const std::vector<std::int64_t>& candidates) {
  const torch::Tensor drawn =
      set.pictures(candidates, {.side = 32}).to(torch::kFloat).flatten(1) / 255;
  const torch::Tensor small = halftone::resized_picture(painted, 32, 32).flatten(1);
  const torch::Tensor places = torch::cdist(small, drawn).argmin(1);
  std::vector<std::size_t> nearest;
  for (std::int64_t i = 0; i < places.size(0); ++i)
    nearest.push_back(static_cast<std::size_t>(places[i].item<std::int64_t>()));
  return nearest;
}

/// The share of `painted`, which stand for the emoji `meant`, whose nearest of `candidates` is of
/// the same family.
inline double own_family_share(const torch::Tensor& painted, const halftone::EmojiSet& set,
                               const std::vector<std::int64_t>& meant,
                               const std::vector<std::int64_t>& candidates) {
  const std::vector<std::size_t> nearest = nearest_emoji(painted, set, candidates);
  double own = 0;
  for (std::size_t i = 0; i < meant.size(); ++i)
    own += set[candidates[nearest[i]]].family == set[meant[i]].family ? 1 : 0;
  return own / static_cast<double>(meant.size());
}

/// The same of the nearest that have a word in common, and of all candidates: what chance gives.
struct SharedWord {
  double nearest = 0;
  double chance = 0;
};
inline SharedWord shared_word(const torch::Tensor& painted, const halftone::EmojiSet& set,
                              const std::vector<std::int64_t>& meant,
                              const std::vector<std::int64_t>& candidates) {
  std::vector<std::set<std::string>> words;
  for (const std::int64_t i : candidates) words.push_back(words_of(set[i].english));
  const std::vector<std::size_t> nearest = nearest_emoji(painted, set, candidates);
  SharedWord shares;
  for (std::size_t i = 0; i < meant.size(); ++i) {
    const std::set<std::string> wanted = words_of(set[meant[i]].english);
    const auto shared = [&](const std::set<std::string>& others) {
      return std::any_of(others.begin(), others.end(),
                         [&](const std::string& word) { return wanted.contains(word); });
    };
    shares.nearest += shared(words[nearest[i]]) ? 1 : 0;
    shares.chance += static_cast<double>(std::count_if(words.begin(), words.end(), shared)) /
                     static_cast<double>(words.size());
  }
  const auto count = static_cast<double>(meant.size());
  return {shares.nearest / count, shares.chance / count};
}
