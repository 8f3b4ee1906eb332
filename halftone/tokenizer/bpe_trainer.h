// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/tokenizer/string_map.h"
#include "halftone/tokenizer/tokenizer.h"

namespace halftone {

struct BpeTrainerOptions {
  std::int64_t vocab_size = 6400;  // special tokens and the 256 bytes included
  /// The first ids, in this order; the first three fill rows up, begin and end a text.
  std::vector<std::string> special_tokens = {"<unk>", "<s>", "</s>"};
  std::int64_t min_frequency = 1;  // a rarer pair is not merged
  /// Called now and then with the number of tokens learned so far and wanted.
  std::function<void(std::int64_t, std::int64_t)> progress;
};

/// Learns a byte-level BPE vocabulary: merges the most frequent pair of neighbours, of equals that
/// with the smaller ids, over and over. The result is that of the `tokenizers` package's BpeTrainer
/// with the byte alphabet and the same options. Memory grows with the number of different words.
class BpeTrainer {
 public:
  /// Throws UserError when vocab_size has no room for the special tokens and the bytes.
  explicit BpeTrainer(BpeTrainerOptions options = {});

  /// Counts the words of one text. Special tokens in it are not recognised.
  void add_text(std::string_view text);

  /// Learns from the texts so far. Fewer tokens than asked for are learned, with a note, when no
  /// pair is left that is frequent enough. Throws UserError when there was no text.
  Tokenizer train() const;

 private:
  BpeTrainerOptions options_;
  StringMap<std::int64_t> words_;
};

}  // namespace halftone
