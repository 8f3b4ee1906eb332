// SPDX-License-Identifier: Apache-2.0
// The interface between layer_summary.cpp and layer_summary_cpu.cpp. It is free of LibTorch, so the
// loops compile quickly.
#pragma once

#include <cstdint>

#include "halftone/kernels/common/simd_impl.h"

namespace halftone {

/// The magnitudes of a FormatFloor as the bits of fp32 numbers.
struct FloorBits {
  std::int32_t flushed;  // counted: up to it
  std::int32_t normal;   // counted: below it
};

/// Of a stretch of a gradient. Zeros count as flushed and subnormal here.
struct GradientPart {
  double norm_squared;
  float largest;
  std::int64_t zeros, flushed, subnormal, non_finite;
};

/// In fp64 and in an order that depends on `size` alone.
GradientPart summarize_gradient(const void* elements, std::int64_t size, KernelType type,
                                FloorBits floor);

/// Of a stretch of a parameter.
struct UpdatePart {
  double change_squared, weight_squared;
  std::int64_t with_gradient, unchanged;
};

struct UpdateRange {
  const void* before;
  const void* after;
  const void* gradient;
  std::int64_t size;
  KernelType type;           // of both weights
  KernelType gradient_type;  // type, or fp32
};

UpdatePart summarize_update(const UpdateRange& range);

}  // namespace halftone
