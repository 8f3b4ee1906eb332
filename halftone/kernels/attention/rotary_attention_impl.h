// SPDX-License-Identifier: Apache-2.0
// The loops of rotary_attention_cpu.cpp; free of LibTorch, so that they compile quickly.
#pragma once

#include <cmath>
#include <cstdint>

#include "halftone/kernels/common/simd_impl.h"

namespace halftone {

/// Of the projections of rotary_attention().
struct AttentionShape {
  std::int64_t batch;
  std::int64_t steps;
  std::int64_t heads;
  std::int64_t kv_heads;
  std::int64_t size;  // of a head

  std::int64_t group() const { return heads / kv_heads; }
  std::int64_t width() const { return (heads + 2 * kv_heads) * size; }
  float scale() const { return 1.0F / std::sqrt(static_cast<float>(size)); }
};

/// One head's vectors at consecutive positions of a (positions, width) matrix of `type`, and fp32
/// rows of `size` elements each, dense. `rotations` (positions, size): cosine and sine of each pair
/// in turn, or null to leave the vectors as they are.
struct HeadRows {
  std::int64_t positions;
  std::int64_t size;
  std::int64_t stride;  // in elements, from one position to the next
  KernelType type;
  const float* rotations;
};

/// Rotates, rounds to `type` and widens.
void load_head(const HeadRows& rows, const void* from, float* to);
/// The same of bf16, as bits, into dense rows of bf16.
void load_head16(const HeadRows& rows, const std::uint16_t* from, std::uint16_t* to);
/// Rotates back and rounds to `type`.
void store_head(const HeadRows& rows, const float* from, void* to);

/// A block of scores: `heads` times `rows` queries (row by row, head by head), the first of them at
/// position `first`; query r sees the keys up to first + r and has `stride` >= first + rows of
/// them.
struct ScoreBlock {
  std::int64_t heads;
  std::int64_t rows;
  std::int64_t first;
  std::int64_t stride;
  float scale;
};

/// scores -> softmax(scale scores), 0 for keys to come, in place; log_sums[h][r] (rows apart) is
/// the logarithm of the sum of the exponentials. A query with nan or inf among its scores gets nan.
void softmax_scores(const ScoreBlock& block, float* scores, float* log_sums,
                    std::int64_t log_stride);
/// The same weights from the scores and the logarithms.
void recompute_weights(const ScoreBlock& block, const float* log_sums, std::int64_t log_stride,
                       float* scores);
/// d_weights -> the gradient of the scores: scale w (d_w - sum(w d_w)), in place.
void softmax_grad(const ScoreBlock& block, const float* weights, float* d_weights);

}  // namespace halftone
