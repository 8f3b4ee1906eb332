// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "halftone/optim/parameter_arena.h"

namespace halftone {

/// Neighbours in one of an arena's buffers, whose gradients travel together.
struct GradientBucket {
  std::size_t buffer = 0;
  Range range;                          // of the buffer's elements
  std::vector<std::size_t> parameters;  // of the arena, that lie in it
  /// What each process adds up, in order of rank. They meet where sums of gradient_stats() do, so
  /// that the statistics of the whole are had from those of the pieces, to the bit.
  std::vector<Range> pieces;
};

/// The arena's buffers in parts, in the order in which a backward pass completes them: the last
/// parameters first. The cuts between them do not depend on the number of processes.
std::vector<GradientBucket> gradient_buckets(const ParameterArena& arena, std::int64_t processes);

/// Sets the pieces of all processes but `rank` in one of the arena's flat tensors to zero; on the
/// CPU they take no memory then.
void clear_others(const torch::Tensor& flat, const GradientBucket& bucket, std::int64_t rank);

}  // namespace halftone
