// SPDX-License-Identifier: Apache-2.0
// What a word is. GPT-2's rule as a regular expression, first alternative first:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// In words: an English contraction; a run of letters, of numbers or of anything else, each with at
// most one space before it; white space, which leaves its last character to the word that follows.
// That of Qwen2 and Llama 3, which differ in how many numbers make a word, one or up to three:
//   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|
//   \s*[\r\n]+|\s+(?!\S)|\s+
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace halftone {

enum class WordRule : std::uint8_t {
  kNone,  // a stretch of text is one word
  kGpt2,
  kQwen2,
  kLlama3,
};

/// The end of the word that begins at byte `at` (< text.size()). Repeated calls from 0 split all of
/// `text`. A byte that is not UTF-8 counts as neither letter, number nor space.
std::size_t word_end(std::string_view text, std::size_t at, WordRule rule = WordRule::kGpt2);

}  // namespace halftone
