// SPDX-License-Identifier: Apache-2.0
#include "halftone/optim/gradient_tree.h"

#include "halftone/core/error.h"

namespace halftone {
namespace {

void add_order(std::int64_t first, std::int64_t step, std::int64_t count,
               std::vector<std::int64_t>& order) {
  if (first >= count) return;
  if (first + step >= count) {
    order.push_back(first);
    return;
  }
  add_order(first, 2 * step, count, order);
  add_order(first + step, 2 * step, count, order);
}

}  // namespace

std::vector<std::int64_t> tree_order(std::int64_t count) {
  std::vector<std::int64_t> order;
  add_order(0, 1, count, order);
  return order;
}

GradientTree::GradientTree(std::vector<const ParameterArena*> arenas) {
  for (const ParameterArena* const arena : arenas) {
    for (std::size_t b = 0; b < arena->buffers().size(); ++b) {
      HALFTONE_CHECK(arena->buffers()[b].gradients.defined(),
                     "[gradient_tree] expected gradients that are kept until the step");
      buffers_.push_back({.arena = arena, .index = b, .levels = {}});
    }
  }
}

// As a binary number counts up.
void GradientTree::set_aside() {
  const torch::NoGradGuard no_grad;
  for (Buffer& buffer : buffers_) {
    for (std::size_t i = 0; i < buffer.arena->size(); ++i) buffer.arena->has_gradient(i);
    std::size_t level = 0;
    for (; is_filled(level); ++level) buffer.gradients().add_(buffer.levels[level]);
    if (level == buffer.levels.size())
      buffer.levels.push_back(flat_zeros(buffer.gradients().numel(),
                                         buffer.gradients().scalar_type(),
                                         buffer.gradients().device()));
    buffer.levels[level].copy_(buffer.gradients());
    buffer.gradients().zero_();
  }
  ++set_aside_;
}

void GradientTree::add_to(const ParameterArena& arena, std::size_t buffer,
                          const Range& range) const {
  const torch::NoGradGuard no_grad;
  for (const Buffer& own : buffers_) {
    if (own.arena != &arena || own.index != buffer) continue;
    const std::int64_t size = range.end - range.begin;
    for (std::size_t level = 0; level < own.levels.size(); ++level)
      if (is_filled(level))
        own.gradients()
            .narrow(0, range.begin, size)
            .add_(own.levels[level].narrow(0, range.begin, size));
  }
}

void GradientTree::finish() {
  for (const Buffer& buffer : buffers_) {
    for (std::size_t i = 0; i < buffer.arena->size(); ++i) buffer.arena->has_gradient(i);
    add_to(*buffer.arena, buffer.index, {0, buffer.gradients().numel()});
  }
  reset();
}

}  // namespace halftone
