// SPDX-License-Identifier: Apache-2.0
// AVX-512 VNNI multiplies unsigned bytes with signed ones: W is read with an offset of 128, which a
// multiple of x's sum takes away again. No sum of its own saturates. This version of Highway has
// no operation for the instruction, and its targets do not name it.
#include <immintrin.h>
// GCC 12 takes _mm512_reduce_add_epi32's own undefined vector for a mistake of the caller (its bug
// 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "halftone/kernels/gemm/int8_weights_impl.h"

#define HALFTONE_VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))

namespace halftone {
namespace {

constexpr std::int64_t kBytes = 64;

template <int kRows, int kColumns>
using Totals = __m512i[kRows][kColumns];

/// 64 products for each total.
template <int kRows, int kColumns>
HALFTONE_VNNI inline void add_products(const std::int8_t* x, const std::int8_t* weight,
                                       std::int64_t stride, Totals<kRows, kColumns>& totals) {
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(0x80));
  __m512i w[kColumns];
#pragma GCC unroll 4
  for (int c = 0; c < kColumns; ++c)
    w[c] = _mm512_xor_si512(_mm512_loadu_si512(weight + c * stride), offset);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const __m512i row = _mm512_loadu_si512(x + r * stride);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) totals[r][c] = _mm512_dpbusd_epi32(totals[r][c], w[c], row);
  }
}

/// kRows rows of x times kColumns rows of W, in two chains: one addition need not wait for the
/// last.
template <int kRows, int kColumns>
HALFTONE_VNNI inline void dots(const std::int8_t* x, const std::int8_t* weight, std::int64_t stride,
                               const std::int32_t* x_sums, std::int32_t* sums) {
  Totals<kRows, kColumns> even, odd;
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) even[r][c] = odd[r][c] = _mm512_setzero_si512();
  std::int64_t i = 0;
  for (; i + 2 * kBytes <= stride; i += 2 * kBytes) {
    add_products<kRows, kColumns>(x + i, weight + i, stride, even);
    add_products<kRows, kColumns>(x + i + kBytes, weight + i + kBytes, stride, odd);
  }
  if (i < stride) add_products<kRows, kColumns>(x + i, weight + i, stride, even);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c)
      sums[r * kInt8WeightRows + c] =
          _mm512_reduce_add_epi32(_mm512_add_epi32(even[r][c], odd[r][c])) - 128 * x_sums[r];
}

template <int kColumns>
HALFTONE_VNNI inline void all_rows(const Int8Block& block, std::int64_t column,
                                   std::int32_t* sums) {
  const std::int8_t* weight = block.weight + column * block.stride;
  std::int32_t* to = sums + column;
  std::int64_t r = 0;
  for (; r + 2 <= block.x_rows; r += 2)
    dots<2, kColumns>(block.x + r * block.stride, weight, block.stride, block.x_sums + r,
                      to + r * kInt8WeightRows);
  if (r < block.x_rows)
    dots<1, kColumns>(block.x + r * block.stride, weight, block.stride, block.x_sums + r,
                      to + r * kInt8WeightRows);
}

}  // namespace

bool has_int8_vnni() {
  static const bool has =
      __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vnni") != 0;
  return has;
}

HALFTONE_VNNI void int8_sums_vnni(const Int8Block& block, std::int32_t* sums) {
  std::int64_t column = 0;
  if (block.x_rows == 1) {
    // What limits a single row is reading W, which goes fastest in the order of its addresses.
    for (; column < block.weight_rows; ++column) all_rows<1>(block, column, sums);
    return;
  }
  for (; column + 4 <= block.weight_rows; column += 4) all_rows<4>(block, column, sums);
  for (; column < block.weight_rows; ++column) all_rows<1>(block, column, sums);
}

}  // namespace halftone
