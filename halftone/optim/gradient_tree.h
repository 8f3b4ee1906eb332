// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "halftone/optim/parameter_arena.h"

namespace halftone {

/// Order in which `count` micro-batches are computed whose gradients GradientTree adds up: those
/// with even numbers first, and among them again. The tree over all is then the same whether one
/// process computes them, or each of 2, 4, 8, ... has every 2nd, 4th, 8th of them.
std::vector<std::int64_t> tree_order(std::int64_t count);

/// Adds the gradients of a step's micro-batches up as a binary tree instead of one after the other,
/// ((0 + 1) + (2 + 3)) in the order in which they come. Holds a copy of the gradients for each
/// level of the tree.
class GradientTree {
 public:
  /// The arenas have buffers for their gradients, and outlive it.
  explicit GradientTree(std::vector<const ParameterArena*> arenas);

  /// After each micro-batch but the last: the buffers are zero again.
  void set_aside();
  /// After the last, or for a part of a buffer whose gradients are complete: adds what was set
  /// aside. Each element once.
  void add_to(const ParameterArena& arena, std::size_t buffer, const Range& range) const;
  /// The same to all buffers, and begins anew.
  void finish();
  /// Begins anew.
  void reset() { set_aside_ = 0; }

 private:
  struct Buffer {
    const ParameterArena* arena;
    std::size_t index;
    std::vector<torch::Tensor> levels;  // level k: of 2^k micro-batches
    const torch::Tensor& gradients() const { return arena->buffers()[index].gradients; }
  };
  bool is_filled(std::size_t level) const { return (set_aside_ >> level & 1U) != 0; }

  std::vector<Buffer> buffers_;
  std::uint64_t set_aside_ = 0;  // micro-batches: its bits say which levels are filled
};

}  // namespace halftone
