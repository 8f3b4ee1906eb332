// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/onednn_matmul.h"

namespace at::native {
// Exported by libtorch_cpu, in no header that is installed.
void mkldnn_matmul(const Tensor& mat1, const Tensor& mat2, const Tensor& result, float beta,
                   float alpha);
}  // namespace at::native

namespace halftone {

bool has_onednn_matmul() { return true; }

void onednn_matmul(const torch::Tensor& out, const torch::Tensor& a, const torch::Tensor& b,
                   float beta, float alpha) {
  at::native::mkldnn_matmul(a, b, out, beta, alpha);
}

}  // namespace halftone
