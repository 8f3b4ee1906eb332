// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/optim/piece_rows.h"

namespace halftone {

/// How gradients travel between processes.
enum class GradientTransport {
  kExact,     // as they are
  kBFloat16,  // fp32 ones rounded to bf16, twice: half the bytes
};

/// The format in which gradients of that dtype travel.
torch::ScalarType dtype_under_way(torch::ScalarType gradients, GradientTransport transport);

/// One flat tensor of gradients under way to its sum over all processes. Each of them adds up a
/// piece, in fp32 (fp64 ones in fp64) and as a binary tree over the ranks, ((0 + 2) + (1 + 3)), so
/// that the sum has the same bits on all of them and in each run; then they exchange the sums. With
/// kBFloat16 what a process sends is rounded to the nearest bf16, and so is the sum: of gradients
/// g_r the sum is off by at most 2^-8 (sum |g_r| + |sum g_r|), the second rounding counted with its
/// own error.
class GradientSum {
 public:
  /// Begins. `gradients` (n), fp64, fp32, bf16 or fp16, and pieces of it in order of rank, which
  /// cover it. All must be the same on each process but for the values.
  GradientSum(ProcessGroup& group, torch::Tensor gradients, std::vector<Range> pieces,
              GradientTransport transport);

  /// Waits for the others' parts of the own piece, adds them up and begins to hand the sum on.
  void add_up();
  /// Waits for the others' sums and puts all of them where the gradients were.
  void finish();
  /// Instead of the two: only the own piece of the gradients becomes the sum.
  void finish_own();

 private:
  torch::Tensor added() const;

  ProcessGroup& group_;
  torch::Tensor gradients_;
  PieceRows sent_;          // in the format that travels
  torch::Tensor received_;  // of the same shape
  ProcessGroup::Pending pending_;
};

/// Pieces of nearly equal length of `size` elements.
std::vector<Range> even_pieces(std::int64_t size, std::int64_t count);

}  // namespace halftone
