// SPDX-License-Identifier: Apache-2.0
// rotary_attention() with matmuls of bf16 factors, for CPUs that have such instructions. bf16 is
// handled as its bits.
#pragma once

#include <cstdint>

#include "halftone/kernels/attention/rotary_attention_impl.h"

namespace halftone {

struct Attention16 {
  AttentionShape shape;
  const std::uint16_t* qkv;  // (B, T, (heads + 2 kv_heads) size)
  const float* rotations;    // (T, size): cosine and sine of each pair in turn
};

/// For the key heads `begin` .. `end` of all batch entries in turn, and the query heads that share
/// them: writes their part of out (B, T, heads size), and of log_sums (B, heads, T) the logarithm
/// of each query's sum of exponentials. REQUIRES has_brgemm_bf16().
void attend16(const Attention16& input, std::int64_t begin, std::int64_t end, std::uint16_t* out,
              float* log_sums);

/// Writes the same heads' part of d_qkv, from the gradient of `out`.
void attend_grad16(const Attention16& input, std::int64_t begin, std::int64_t end,
                   const std::uint16_t* d_out, const float* log_sums, std::uint16_t* d_qkv);

}  // namespace halftone
