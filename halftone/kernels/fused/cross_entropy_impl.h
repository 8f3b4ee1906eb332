// SPDX-License-Identifier: Apache-2.0
// The interface between cross_entropy.cpp and cross_entropy_cpu.cpp. It is free of LibTorch, so the
// loops compile quickly.
#pragma once

#include <cstdint>

#include "halftone/kernels/common/simd_impl.h"

namespace halftone {

/// Dense rows of logits and what is made of them.
struct CrossEntropyRows {
  void* logits;  // overwritten by their gradient where `write_gradient`
  KernelType type;
  std::int64_t classes;
  const std::int64_t* targets;  // within the classes where the weight is not 0
  const float* weights;
  float* losses;
  bool write_gradient;
};

/// Rows `begin` .. `end`. What a row gives depends on that row alone.
void cross_entropy_range(const CrossEntropyRows& rows, std::int64_t begin, std::int64_t end);

}  // namespace halftone
