// SPDX-License-Identifier: Apache-2.0
// The interface between matvec.cpp and matvec_cpu.cpp. It is free of LibTorch, so the loops compile
// quickly.
#pragma once

#include <cstdint>

#include "halftone/kernels/common/simd_impl.h"

namespace halftone {

/// Beyond this many rows of x, a GEMM reuses what it reads well enough.
inline constexpr std::int64_t kMaxMatvecRows = 8;

/// A few rows of x and a matrix W.
struct MatvecOperands {
  const float* x;           // (rows, columns), dense; at most kMaxMatvecRows
  const void* weight;       // (any, columns)
  std::int64_t stride;      // from one row of W to the next
  std::int64_t rows;        // of x
  std::int64_t columns;     // summed along
  KernelType weight_type;   // as W lies in memory
  KernelType product_type;  // fp32 W is rounded to it on the way; 16-bit W is never rounded
  KernelType out_type;
};

/// The values of `count` elements of `type`, exactly.
void widen(const void* from, KernelType type, std::int64_t count, float* to);

/// Element (r, j) of x W^T for j in `begin` .. `end`, to out[r * out_stride + j], rounded once to
/// out_type. A sum's order depends on `columns` and the instruction set alone.
void matvec_range(const MatvecOperands& operands, std::int64_t begin, std::int64_t end, void* out,
                  std::int64_t out_stride);

}  // namespace halftone
