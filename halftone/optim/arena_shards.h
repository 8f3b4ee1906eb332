// SPDX-License-Identifier: Apache-2.0
// An optimizer's work divided among processes (Rajbhandari et al. 2020, ZeRO): each updates its
// pieces of the arena, keeps the states of these alone, and hands the new weights on.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/optim/gradient_buckets.h"
#include "halftone/optim/parameter_arena.h"
#include "halftone/optim/piece_rows.h"

namespace halftone {

/// What both hold; empty where nothing.
Range common(const Range& a, const Range& b);

/// The pieces are those of gradient_buckets(), so that what a process has added up is what it
/// updates.
class ArenaShards {
 public:
  /// `group` null: this process has all of it. The arena must outlive it.
  ArenaShards(const ParameterArena& arena, std::shared_ptr<ProcessGroup> group);

  bool is_whole() const { return group_ == nullptr; }
  /// The process's ranges of a buffer, in order.
  const std::vector<Range>& owned(std::size_t buffer) const { return owned_.at(buffer); }

  /// Gives each process the weights that the others have updated. All call it; waits.
  void gather_weights() const;
  /// arena().stats(), to the bit, from gradients of which each process has its own pieces alone.
  /// All call it; waits.
  GradientStats gather_stats() const;

 private:
  /// Elements that gradient_stats() sums up in one go.
  struct Chunk {
    std::size_t parameter;
    std::size_t owner;  // rank
    Range range;        // of the buffer
  };
  std::vector<Chunk> chunks_of(const GradientBucket& bucket) const;
  /// Of each chunk of the own pieces: the sum, and elements that are not finite.
  std::vector<double> own_chunk_stats() const;

  const ParameterArena& arena_;
  std::shared_ptr<ProcessGroup> group_;
  std::vector<GradientBucket> buckets_;
  std::vector<std::vector<Range>> owned_;
};

}  // namespace halftone
