// SPDX-License-Identifier: Apache-2.0
// GPT-2's rule of what a word is. As a regular expression, first alternative first:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// In words: an English contraction; a run of letters, of numbers or of anything else, each with at
// most one space before it; white space, which leaves its last character to the word that follows.
#pragma once

#include <cstddef>
#include <string_view>

namespace halftone {

/// The end of the word that begins at byte `at` (< text.size()). Repeated calls from 0 split all of
/// `text`. A byte that is not UTF-8 counts as neither letter, number nor space.
std::size_t word_end(std::string_view text, std::size_t at);

}  // namespace halftone
