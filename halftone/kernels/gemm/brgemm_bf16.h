// SPDX-License-Identifier: Apache-2.0
// The bf16 matmul that LibTorch's own attention is made of (oneDNN's brgemm), for kernels
// that multiply small blocks; sgemm.h for 16-bit factors.
#pragma once

#include <cstdint>

#include "halftone/kernels/gemm/sgemm.h"

namespace halftone {

/// A matrix of bf16 bits, rows `stride` apart. A right factor has two rows of the matrix in one, as
/// the instructions take them: (k / 2, n, 2), with a stride in pairs.
struct BrgemmBf16Operand {
  const std::uint16_t* data;
  std::int64_t stride;
};

/// Whether this LibTorch has such matmuls for this CPU; not whether they are fast
/// (cpu_gemm_config.h).
bool has_brgemm_bf16();

/// c (m, n) = a (m, k) b (k, n), or c += with `add`, in fp32, rows of c `c_stride` floats apart; k
/// is even. The calling thread works alone. LibTorch compiles a kernel for each combination of
/// numbers (a tenth of a millisecond) and keeps it for each thread: let there be few.
void brgemm_bf16(const SgemmSize& size, const BrgemmBf16Operand& a, const BrgemmBf16Operand& b,
                 bool add, float* c, std::int64_t c_stride);

/// A thread calls brgemm_bf16() inside this scope. On some CPUs it holds the matrix registers until
/// it ends.
struct BrgemmBf16Region {
  BrgemmBf16Region() = default;
  ~BrgemmBf16Region();
  BrgemmBf16Region(const BrgemmBf16Region&) = delete;
  BrgemmBf16Region& operator=(const BrgemmBf16Region&) = delete;
};

}  // namespace halftone
