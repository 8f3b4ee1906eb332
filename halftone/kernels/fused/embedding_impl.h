// SPDX-License-Identifier: Apache-2.0
// The interface between embedding.cpp and embedding_cpu.cpp. It is free of LibTorch, so the loops
// compile quickly.
#pragma once

#include <cstdint>

#include "halftone/kernels/common/simd_impl.h"

namespace halftone {

struct EmbeddingGradient {
  const void* rows;  // (n, dim): the gradient of each looked-up row
  void* sums;        // (V, dim)
  KernelType type;   // of both
  std::int64_t dim;
  const std::int64_t* order;   // (n): the rows grouped by id, ascending in each group
  const std::int64_t* starts;  // (V + 1): where an id's group begins
};

/// sums[v] of the ids `begin` .. `end`, in fp32 in the order of the rows, rounded once.
void embedding_gradient_range(const EmbeddingGradient& gradient, std::int64_t begin,
                              std::int64_t end);

}  // namespace halftone
