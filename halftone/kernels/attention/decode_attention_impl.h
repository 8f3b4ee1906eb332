// SPDX-License-Identifier: Apache-2.0
// The interface between decode_attention.cpp and decode_attention_cpu.cpp. It is free of LibTorch,
// so the loops compile quickly.
#pragma once

#include <cstdint>

#include "halftone/kernels/common/simd_impl.h"

namespace halftone {

/// The queries that share a key head, one position each, and that head's values.
struct DecodeGroup {
  float* scores;        // (queries, steps), dense; becomes exp(scale (score - largest))
  const void* values;   // (steps, size)
  std::int64_t stride;  // from one row of values to the next
  float scale;          // above 0
  std::int64_t queries;
  std::int64_t steps;
  std::int64_t size;
  KernelType type;  // of the values and of the result
};

/// softmax(scale scores) values in fp32, rounded once; to out, (queries, size), dense. Each sum's
/// order depends on `steps` and the instruction set alone.
void mix_values(const DecodeGroup& group, void* out);

}  // namespace halftone
