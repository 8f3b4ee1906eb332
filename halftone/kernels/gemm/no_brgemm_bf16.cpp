// SPDX-License-Identifier: Apache-2.0
// For a LibTorch that keeps its bf16 matmuls to itself.
#include "halftone/core/error.h"
#include "halftone/kernels/gemm/brgemm_bf16.h"

namespace halftone {

bool has_brgemm_bf16() { return false; }

void brgemm_bf16(const SgemmSize&, const BrgemmBf16Operand&, const BrgemmBf16Operand&, bool, float*,
                 std::int64_t) {
  HALFTONE_CHECK(false,
                 "[brgemm_bf16] this LibTorch exports no brgemm; ask has_brgemm_bf16() first");
}

BrgemmBf16Region::~BrgemmBf16Region() = default;

}  // namespace halftone
