// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "halftone/tokenizer/pair_map.h"
#include "halftone/tokenizer/string_map.h"

namespace halftone {

/// The loop of BPE training: words as ids, how often each pair of neighbours occurs, and a queue of
/// pairs with the most frequent on top. Queue entries may be out of date; an entry whose count has
/// changed goes back with the true one when it comes up.
class MergeLearner {
 public:
  /// `vocab`: the tokens to begin with, by id; the 256 letters of the byte alphabet among them.
  explicit MergeLearner(std::vector<std::string> vocab);

  void add_word(std::string_view bytes, std::int64_t count);

  /// Merges until there are `vocab_size` tokens or no pair occurs `min_frequency` times.
  void learn(std::size_t vocab_size, std::int64_t min_frequency,
             const std::function<void(std::int64_t, std::int64_t)>& progress);

  const std::vector<std::string>& vocab() const { return vocab_; }

  /// Pairs of ids in the order of their ranks.
  std::vector<std::pair<std::uint32_t, std::uint32_t>> merges() const;

 private:
  using WordIndex = std::uint32_t;
  struct Word {
    std::size_t begin;  // in symbols_
    std::size_t size;
    std::int64_t count;
  };
  struct Candidate {
    std::int64_t count;
    std::uint64_t pair;
    std::vector<WordIndex> words;  // that may hold the pair
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  std::uint32_t token_id(const std::string& token);
  void change(std::uint64_t pair, std::int64_t count, WordIndex word);
  void merge_in_word(WordIndex word, std::uint64_t pair, std::uint32_t merged);
  void queue_found();

  std::vector<std::string> vocab_;
  StringMap<std::uint32_t> ids_;
  std::vector<std::uint32_t> symbols_;
  std::vector<Word> words_;
  PairMap<std::int64_t> counts_;
  std::unordered_map<std::uint64_t, std::vector<WordIndex>> found_;  // since the last merge
  std::vector<Candidate> queue_;                                     // a heap
  std::vector<std::uint64_t> merges_;
};

}  // namespace halftone
