// SPDX-License-Identifier: Apache-2.0
#include "halftone/tokenizer/merge_table.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <queue>

namespace halftone {
namespace {

constexpr std::size_t kScanLimit = 96;  // ids; a quadratic scan of fewer is faster than a queue

}  // namespace

void MergeTable::add(std::int32_t left, std::int32_t right, std::int32_t merged) {
  ranks_[pack_pair(static_cast<std::uint32_t>(left), static_cast<std::uint32_t>(right))] =
      static_cast<Rank>(merged_.size());
  merged_.push_back(merged);
}

MergeTable::Rank MergeTable::rank(std::int32_t left, std::int32_t right) const {
  const Rank* found =
      ranks_.find(pack_pair(static_cast<std::uint32_t>(left), static_cast<std::uint32_t>(right)));
  return found == nullptr ? kNoRank : *found;
}

void MergeTable::apply(std::vector<std::int32_t>& word) const {
  if (word.size() < 2) return;
  if (word.size() <= kScanLimit)
    apply_by_scanning(word);
  else
    apply_by_queue(word);
}

void MergeTable::apply_by_scanning(std::vector<std::int32_t>& word) const {
  std::array<Rank, kScanLimit> ranks;  // ranks[i]: of word[i] and word[i + 1]
  std::size_t pairs = word.size() - 1;
  for (std::size_t i = 0; i < pairs; ++i) ranks[i] = rank(word[i], word[i + 1]);
  while (pairs > 0) {
    const auto end = ranks.begin() + static_cast<std::ptrdiff_t>(pairs);
    const auto lowest = std::min_element(ranks.begin(), end);
    if (*lowest == kNoRank) break;
    const auto at = static_cast<std::size_t>(lowest - ranks.begin());
    word[at] = merged_[*lowest];
    std::copy(word.begin() + static_cast<std::ptrdiff_t>(at) + 2,
              word.begin() + static_cast<std::ptrdiff_t>(pairs) + 1,
              word.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    std::copy(lowest + 1, end, lowest);
    --pairs;
    if (at > 0) ranks[at - 1] = rank(word[at - 1], word[at]);
    if (at < pairs) ranks[at] = rank(word[at], word[at + 1]);
  }
  word.resize(pairs + 1);
}

void MergeTable::apply_by_queue(std::vector<std::int32_t>& word) const {
  struct Node {
    std::size_t previous;
    std::size_t next;
    Rank rank;  // of this id and the next one
  };
  struct Entry {
    Rank rank;
    std::size_t at;
    bool operator>(const Entry& other) const {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  const std::size_t size = word.size();
  std::vector<Node> nodes(size);
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue;
  const auto update = [&](std::size_t at) {
    Node& node = nodes[at];
    node.rank = node.next < size ? rank(word[at], word[node.next]) : kNoRank;
    if (node.rank != kNoRank) queue.push({node.rank, at});
  };
  for (std::size_t i = 0; i < size; ++i) {
    nodes[i] = {i - 1, i + 1, kNoRank};
    update(i);
  }
  while (!queue.empty()) {
    const Entry entry = queue.top();
    queue.pop();
    Node& node = nodes[entry.at];
    if (node.rank != entry.rank) continue;  // a neighbour was merged since
    Node& right = nodes[node.next];
    word[entry.at] = merged_[entry.rank];
    node.next = right.next;
    right.rank = kNoRank;
    if (node.next < size) nodes[node.next].previous = entry.at;
    update(entry.at);
    if (entry.at > 0) update(node.previous);
  }
  std::size_t kept = 0;
  for (std::size_t at = 0; at < size; at = nodes[at].next) word[kept++] = word[at];
  word.resize(kept);
}

}  // namespace halftone
