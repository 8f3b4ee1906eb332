// SPDX-License-Identifier: Apache-2.0
// What emoji_painter and emoji_trio share: emoji as samples with a split, and captions as tokens.
#pragma once

#include <halftone/core/log.h>
#include <halftone/data/sample_seed.h>
#include <halftone/media/emoji_set.h>
#include <halftone/tokenizer/bpe_trainer.h>
#include <halftone/tokenizer/tokenizer.h>
#include <torch/types.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <tuple>
#include <vector>

/// The emoji that a model learns from, or those that are held out: a tenth of the families, the
/// same in every run. Tones of skin are left out.
inline std::vector<std::int64_t> emoji_part(const halftone::EmojiSet& set, bool held_out) {
  using Side = halftone::SamplePart::Side;
  const std::vector<std::int64_t> part =
      set.part({.side = held_out ? Side::kHeldOut : Side::kOthers, .share = 0.1, .seed = 1});
  const std::vector<std::int64_t> plain = set.without_skin_tones();
  std::vector<std::int64_t> both;
  std::set_intersection(part.begin(), part.end(), plain.begin(), plain.end(),
                        std::back_inserter(both));
  return both;
}

inline std::vector<std::int64_t> evenly_spaced(const std::vector<std::int64_t>& all,
                                               std::int64_t count) {
  std::vector<std::int64_t> chosen;
  count = std::min(count, std::ssize(all));
  for (std::int64_t i = 0; i < count; ++i)
    chosen.push_back(all[static_cast<std::size_t>(i * std::ssize(all) / count)]);
  return chosen;
}

inline std::vector<std::string> english_names(const halftone::EmojiSet& set,
                                              const std::vector<std::int64_t>& indices) {
  std::vector<std::string> names;
  names.reserve(indices.size());
  for (const std::int64_t i : indices) names.push_back(set[i].english.name);
  return names;
}

/// Learns a byte-level BPE from the names and keywords of all emoji, in both languages.
inline halftone::Tokenizer learn_caption_tokens(const halftone::EmojiSet& set,
                                                std::int64_t vocab_size = 2048) {
  halftone::BpeTrainer trainer({.vocab_size = vocab_size, .min_frequency = 2});
  for (std::int64_t i = 0; i < set.size(); ++i)
    for (const halftone::EmojiName* name : {&set[i].english, &set[i].chinese}) {
      trainer.add_text(name->name);
      for (const std::string& keyword : name->keywords) trainer.add_text(keyword);
    }
  return trainer.train();
}

/// From the tokenizer.json that a checkpoint has among its hyper-parameters.
inline halftone::Tokenizer caption_tokens(const std::string& json) {
  return halftone::Tokenizer::from_json(json, "", "the checkpoint's tokenizer");
}

/// Tokens of a caption at most, with the two that mark its ends.
inline constexpr std::int64_t kLongestCaption = 32;

/// The next multiple of 8. Lengths of batches are rounded up to it: each shape of a product has
/// kernels of its own, which a process keeps.
inline std::int64_t rounded_length(std::int64_t length) { return (length + 7) / 8 * 8; }

/// B captions as rows of tokens, between <s> and </s> and filled up with <unk>.
struct Captions {
  torch::Tensor ids;      // (B, T) int64, T a rounded_length()
  torch::Tensor lengths;  // (B) int64

  auto tensors() { return std::tie(ids, lengths); }
};

/// Of each caption at most `longest` tokens are kept, <s> and </s> among them. REQUIRES 2 <=
/// longest.
inline Captions encode_captions(const halftone::Tokenizer& tokenizer,
                                const std::vector<std::string>& texts,
                                std::int64_t longest = kLongestCaption) {
  const halftone::SpecialTokens special = tokenizer.special_tokens();
  std::vector<std::vector<std::int64_t>> rows;
  std::size_t width = 2;
  for (const std::string& text : texts) {
    const std::vector<std::int32_t> tokens = tokenizer.encode(text);
    const auto kept = std::min<std::ptrdiff_t>(std::ssize(tokens), longest - 2);
    std::vector<std::int64_t>& row = rows.emplace_back(1, special.bos);
    row.insert(row.end(), tokens.begin(), tokens.begin() + kept);
    row.push_back(special.eos);
    width = std::max(width, row.size());
  }
  const auto count = std::ssize(rows);
  Captions captions{torch::full({count, rounded_length(static_cast<std::int64_t>(width))},
                                special.pad, torch::kLong),
                    torch::empty({count}, torch::kLong)};
  for (std::int64_t i = 0; i < count; ++i) {
    const auto& row = rows[static_cast<std::size_t>(i)];
    captions.ids[i].narrow(0, 0, std::ssize(row)).copy_(torch::tensor(row, torch::kLong));
    captions.lengths[i] = std::ssize(row);
  }
  return captions;
}

/// How an emoji may be called: by its name, by one of its keywords, or by both; one time in four in
/// Chinese.
inline std::string random_caption(const halftone::Emoji& emoji, halftone::SampleSeed seed) {
  const halftone::EmojiName& name = seed.uniform(0) < 0.25 ? emoji.chinese : emoji.english;
  const double kind = seed.uniform(1);
  if (kind < 0.5 || name.keywords.empty()) return name.name;
  const std::string& keyword =
      name.keywords[static_cast<std::size_t>(seed.word(2) % name.keywords.size())];
  return kind < 0.75 ? keyword : name.name + ", " + keyword;
}
