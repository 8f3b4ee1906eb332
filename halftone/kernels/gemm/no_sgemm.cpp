// SPDX-License-Identifier: Apache-2.0
// For a LibTorch that keeps its BLAS to itself.
#include "halftone/core/error.h"
#include "halftone/kernels/gemm/sgemm.h"

namespace halftone {

bool has_sgemm() { return false; }

void sgemm(const SgemmSize&, const SgemmOperand&, const SgemmOperand&, float, float*,
           std::int64_t) {
  HALFTONE_CHECK(false, "[sgemm] this LibTorch exports no sgemm_; ask has_sgemm() first");
}

}  // namespace halftone
