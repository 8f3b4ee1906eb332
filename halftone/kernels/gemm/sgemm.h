// SPDX-License-Identifier: Apache-2.0
// The fp32 matmul of the BLAS inside LibTorch, for kernels that multiply small blocks where
// a tensor for each would cost more than the matmul.
#pragma once

#include <cstdint>

namespace halftone {

/// A row-major matrix in memory: rows are `stride` floats apart. `transposed` is how it is read.
struct SgemmOperand {
  const float* data;
  std::int64_t stride;
  bool transposed = false;
};

struct SgemmSize {
  std::int64_t m;
  std::int64_t n;
  std::int64_t k;
};

/// Whether LibTorch lends its BLAS.
bool has_sgemm();

/// c (m, n) = a (m, k) b (k, n) + beta c, rows of c `c_stride` floats apart. With beta 0 what c
/// held does not matter. In a parallel region the calling thread works alone.
void sgemm(const SgemmSize& size, const SgemmOperand& a, const SgemmOperand& b, float beta,
           float* c, std::int64_t c_stride);

}  // namespace halftone
