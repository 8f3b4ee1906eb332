// SPDX-License-Identifier: Apache-2.0
// For a LibTorch that keeps its bf16 products to itself.
#include "halftone/core/error.h"
#include "halftone/kernels/gemm/brgemm16.h"

namespace halftone {

bool has_brgemm16() { return false; }

void brgemm16(const SgemmSize&, const Brgemm16Operand&, const Brgemm16Operand&, bool, float*,
              std::int64_t) {
  HALFTONE_CHECK(false, "[brgemm16] this LibTorch exports no brgemm; ask has_brgemm16() first");
}

Brgemm16Region::~Brgemm16Region() = default;

}  // namespace halftone
