// SPDX-License-Identifier: Apache-2.0
#include "halftone/tokenizer/merge_learner.h"

#include <algorithm>

#include "halftone/tokenizer/byte_alphabet.h"

namespace halftone {
namespace {

constexpr std::size_t kProgressStep = 100;  // merges

constexpr std::uint32_t left_of(std::uint64_t pair) {
  return static_cast<std::uint32_t>(pair >> 32U);
}

constexpr std::uint32_t right_of(std::uint64_t pair) { return static_cast<std::uint32_t>(pair); }

}  // namespace

MergeLearner::MergeLearner(std::vector<std::string> vocab) : vocab_(std::move(vocab)) {
  for (std::size_t id = 0; id < vocab_.size(); ++id)
    ids_.emplace(vocab_[id], static_cast<std::uint32_t>(id));
}

void MergeLearner::add_word(std::string_view bytes, std::int64_t count) {
  const auto index = static_cast<WordIndex>(words_.size());
  words_.push_back({symbols_.size(), bytes.size(), count});
  for (const char byte : bytes)
    symbols_.push_back(ids_.find(byte_character(static_cast<std::uint8_t>(byte)))->second);
  for (std::size_t i = words_.back().begin; i + 1 < symbols_.size(); ++i)
    change(pack_pair(symbols_[i], symbols_[i + 1]), count, index);
}

void MergeLearner::learn(std::size_t vocab_size, std::int64_t min_frequency,
                         const std::function<void(std::int64_t, std::int64_t)>& progress) {
  queue_found();
  while (vocab_.size() < vocab_size && !queue_.empty()) {
    std::pop_heap(queue_.begin(), queue_.end());
    Candidate best = std::move(queue_.back());
    queue_.pop_back();
    const std::int64_t count = counts_[best.pair];
    if (best.count != count) {
      best.count = count;
      queue_.push_back(std::move(best));
      std::push_heap(queue_.begin(), queue_.end());
      continue;
    }
    if (count < std::max<std::int64_t>(1, min_frequency)) break;
    const std::uint32_t merged = token_id(vocab_[left_of(best.pair)] + vocab_[right_of(best.pair)]);
    merges_.push_back(best.pair);
    for (const WordIndex word : best.words) merge_in_word(word, best.pair, merged);
    queue_found();
    if (progress && merges_.size() % kProgressStep == 0)
      progress(static_cast<std::int64_t>(vocab_.size()), static_cast<std::int64_t>(vocab_size));
  }
}

std::vector<std::pair<std::uint32_t, std::uint32_t>> MergeLearner::merges() const {
  // A token that two different pairs spell can bring a merged pair back; its last rank counts.
  PairMap<std::size_t> last;
  for (std::size_t rank = 0; rank < merges_.size(); ++rank) last[merges_[rank]] = rank;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> pairs;
  for (std::size_t rank = 0; rank < merges_.size(); ++rank)
    if (*last.find(merges_[rank]) == rank)
      pairs.emplace_back(left_of(merges_[rank]), right_of(merges_[rank]));
  return pairs;
}

std::uint32_t MergeLearner::token_id(const std::string& token) {
  const auto [place, is_new] = ids_.emplace(token, static_cast<std::uint32_t>(vocab_.size()));
  if (is_new) vocab_.push_back(token);
  return place->second;
}

void MergeLearner::change(std::uint64_t pair, std::int64_t count, WordIndex word) {
  counts_[pair] += count;
  if (count < 0) return;
  std::vector<WordIndex>& words = found_[pair];
  if (words.empty() || words.back() != word) words.push_back(word);
}

void MergeLearner::merge_in_word(WordIndex index, std::uint64_t pair, std::uint32_t merged) {
  Word& word = words_[index];
  std::uint32_t* symbols = symbols_.data() + word.begin;
  std::size_t out = 0;
  for (std::size_t in = 0; in < word.size; ++in) {
    if (in + 1 == word.size || pack_pair(symbols[in], symbols[in + 1]) != pair) {
      symbols[out++] = symbols[in];
      continue;
    }
    // The count of `pair` itself stays: it is only asked again if the pair comes back, and the
    // reference then counts from there.
    if (out > 0) {
      change(pack_pair(symbols[out - 1], symbols[in]), -word.count, index);
      change(pack_pair(symbols[out - 1], merged), word.count, index);
    }
    if (in + 2 < word.size) {
      change(pack_pair(symbols[in + 1], symbols[in + 2]), -word.count, index);
      change(pack_pair(merged, symbols[in + 2]), word.count, index);
    }
    symbols[out++] = merged;
    ++in;
  }
  word.size = out;
}

void MergeLearner::queue_found() {
  for (auto& [pair, words] : found_) {
    const std::int64_t count = counts_[pair];
    if (count <= 0) continue;
    queue_.push_back({count, pair, std::move(words)});
    std::push_heap(queue_.begin(), queue_.end());
  }
  found_.clear();
}

}  // namespace halftone
