// SPDX-License-Identifier: Apache-2.0
// The loops of rotary_attention_bf16_cpu.cpp; free of LibTorch, so that they compile quickly. bf16
// is handled as its bits, and two of them as a word, the first in the low half.
#pragma once

#include <cstdint>

namespace halftone {

/// A block of scores, head by head, row by row, `keys` to a row. A head has `rows` rows, an even
/// number, of which `queries` are real: they stand at positions `first` and on, and see the keys
/// up to their own. Whatever no real query sees gets the weight 0. `keys` is a multiple of 32.
struct ScoreBlockBf16 {
  std::int64_t heads;
  std::int64_t rows;
  std::int64_t queries;
  std::int64_t first;
  std::int64_t keys;
  float scale;
};

/// exp(scale (scores - the largest of the row)) as bf16, and for each row 1 / their sum before
/// rounding; log_sums[h][r] (rows apart) is what softmax_weights16() needs, for real queries. A
/// query with nan or inf among its scores gets nan for both numbers.
void softmax_scores16(const ScoreBlockBf16& block, const float* scores, std::uint16_t* weights,
                      float* inverse_sums, float* log_sums, std::int64_t log_stride);

/// Results of softmax_grad16(). `pairs` are words of two consecutive rows: (heads rows / 2, keys).
struct SoftmaxGrads16 {
  std::uint32_t* weight_pairs;
  std::uint16_t* d_scores;
  std::uint32_t* d_score_pairs;
};

/// The weights w = softmax(scale scores), from the logarithms, and the gradient of the scores,
/// scale w (d_w - sum(w d_w)): computed in fp32, each rounded once. Overwrites its inputs.
void softmax_grad16(const ScoreBlockBf16& block, const float* log_sums, std::int64_t log_stride,
                    float* scores, float* d_weights, const SoftmaxGrads16& to);

/// rows[i] *= factors[i], for `count` dense rows of `size`.
void scale_rows(float* rows, std::int64_t count, std::int64_t size, const float* factors);

/// (2 pairs, size) bf16 -> (pairs, size) words, and back.
void join_rows(const std::uint16_t* from, std::int64_t pairs, std::int64_t size, std::uint32_t* to);
void split_rows(const std::uint32_t* from, std::int64_t pairs, std::int64_t size,
                std::uint16_t* to);

}  // namespace halftone
