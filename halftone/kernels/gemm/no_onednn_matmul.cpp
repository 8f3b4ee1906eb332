// SPDX-License-Identifier: Apache-2.0
// For a LibTorch without oneDNN, or one that keeps it to itself.
#include "halftone/core/error.h"
#include "halftone/kernels/gemm/onednn_matmul.h"

namespace halftone {

bool has_onednn_matmul() { return false; }

void onednn_matmul(const torch::Tensor&, const torch::Tensor&, const torch::Tensor&, float, float) {
  HALFTONE_CHECK(false,
                 "[onednn_matmul] this LibTorch exports no mkldnn_matmul; ask has_onednn_matmul() "
                 "first");
}

}  // namespace halftone
