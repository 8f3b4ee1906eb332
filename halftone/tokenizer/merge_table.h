// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "halftone/tokenizer/pair_map.h"

namespace halftone {

/// The merges of a byte-pair encoding, which it applies to words. Merging works on ids: the pair of
/// lowest rank goes first, the leftmost of equals, until no pair of neighbours has a rank.
class MergeTable {
 public:
  /// The next merge by rank: `left` and `right` become `merged`. A pair that is added again takes
  /// its new rank.
  void add(std::int32_t left, std::int32_t right, std::int32_t merged);

  /// Merges `word` in place. Time is n log n for long words, whatever they hold.
  void apply(std::vector<std::int32_t>& word) const;

 private:
  using Rank = std::uint32_t;
  static constexpr Rank kNoRank = ~Rank{0};

  Rank rank(std::int32_t left, std::int32_t right) const;
  void apply_by_scanning(std::vector<std::int32_t>& word) const;
  void apply_by_queue(std::vector<std::int32_t>& word) const;

  PairMap<Rank> ranks_;
  std::vector<std::int32_t> merged_;  // by rank
};

}  // namespace halftone
