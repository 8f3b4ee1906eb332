// SPDX-License-Identifier: Apache-2.0
// The loops of transpose_cpu.cpp; free of LibTorch, so that they compile quickly.
#pragma once

#include <cstdint>

namespace halftone {

/// A block of a matrix of 32-bit words, rows `stride` words apart.
struct WordBlock {
  const std::uint32_t* words;
  std::int64_t stride;
  std::int64_t rows;
  std::int64_t columns;
};

/// target[c][r] = block[r][c], rows of the target `stride` words apart.
void transpose_words(const WordBlock& block, std::uint32_t* target, std::int64_t stride);

}  // namespace halftone
