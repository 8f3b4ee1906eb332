// SPDX-License-Identifier: Apache-2.0
// The interface between int8_gemm.cpp and int8_cpu.cpp. It is free of LibTorch, so the loops
// compile quickly.
#pragma once

#include <cstdint>

#include "halftone/kernels/common/simd_impl.h"

namespace halftone {

/// How values become integers -largest .. largest, stored as the bytes of integer + zero.
struct Int8Format {
  float largest;
  std::int32_t zero;
  bool stochastic;       // else to the nearest, ties to even
  std::uint32_t key[2];  // of rounding_bits(), whose index is the value's position, row by row
};

/// Reads `rows` x `columns` values. Four consecutive integers of a sum make one quad.
struct Int8Source {
  const void* values;
  KernelType type;
  std::int64_t stride;  // from one row to the next
  std::int64_t rows;
  std::int64_t columns;
};

/// One scale for each row, sums along it. Rows `begin` .. `end` become (rows, ceil(columns / 4))
/// quads; the rest of the last one is 0 + zero. scales[r] * integer is the value; a row with inf or
/// nan gets the scale nan. sums[r] is the sum of the row's integers.
void quantize_rows(const Int8Source& source, const Int8Format& format, std::int64_t begin,
                   std::int64_t end, std::uint32_t* quads, float* scales, std::int32_t* sums);

/// One scale for each column, sums down it: the same of the transpose, for columns `begin` ..
/// `end`, as (ceil(rows / 4), columns) quads.
void quantize_columns(const Int8Source& source, const Int8Format& format, std::int64_t begin,
                      std::int64_t end, std::uint32_t* quads, float* scales, std::int32_t* sums);

/// A block of (rows, columns) integer sums and what turns them into fp32.
struct Int8Sums {
  const std::int32_t* sums;  // dense
  std::int64_t rows;
  std::int64_t columns;
  std::int32_t zero;               // of the left operand
  const float* left_scales;        // (rows)
  const float* right_scales;       // (columns)
  const std::int32_t* right_sums;  // (columns)
};

/// out[r][c] += (sums - zero right_sums) left_scale right_scale.
void add_dequantized(const Int8Sums& block, float* out);
/// out[r][c] = the same, rounded to `type`.
void dequantize(const Int8Sums& block, KernelType type, void* out);

}  // namespace halftone
