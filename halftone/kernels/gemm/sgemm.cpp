// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/sgemm.h"

extern "C" void sgemm_(const char* a_op, const char* b_op, const int* m, const int* n, const int* k,
                       const float* alpha, const float* a, const int* a_stride, const float* b,
                       const int* b_stride, const float* beta, float* c, const int* c_stride);

namespace halftone {

bool has_sgemm() { return true; }

// BLAS is column-major: it computes the transpose, b^T a^T, of what stands here.
void sgemm(const SgemmSize& size, const SgemmOperand& a, const SgemmOperand& b, float beta,
           float* c, std::int64_t c_stride) {
  const char a_op = a.transposed ? 'T' : 'N', b_op = b.transposed ? 'T' : 'N';
  const int m = static_cast<int>(size.m), n = static_cast<int>(size.n);
  const int k = static_cast<int>(size.k);
  const int a_step = static_cast<int>(a.stride), b_step = static_cast<int>(b.stride);
  const int c_step = static_cast<int>(c_stride);
  const float one = 1.0F;
  sgemm_(&b_op, &a_op, &n, &m, &k, &one, b.data, &b_step, a.data, &a_step, &beta, c, &c_step);
}

}  // namespace halftone
