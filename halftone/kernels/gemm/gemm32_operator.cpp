// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/common/operator_impl.h"
#include "halftone/kernels/gemm/gemm32_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

/// `library` is a GemmLibrary.
using Gemm32Signature = Tensor(const Tensor& out, const Tensor& a, const Tensor& b, double beta,
                               double factor, std::int64_t library);

Tensor gemm32_anywhere(const Tensor& out, const Tensor& a, const Tensor& b, double beta,
                       double factor, std::int64_t /*library*/) {
  multiply32_by_libtorch(out, a, b, beta, factor);
  return out;
}

Tensor gemm32_cpu(const Tensor& out, const Tensor& a, const Tensor& b, double beta, double factor,
                  std::int64_t library) {
  multiply32_cpu(out, a, b, beta, factor, static_cast<GemmLibrary>(library));
  return out;
}

const Operator<Gemm32Signature> gemm32_operator(
    "gemm32_(Tensor(a!) out, Tensor a, Tensor b, float beta, float factor, int library) -> "
    "Tensor(a!)",
    {.reference = gemm32_anywhere, .cpu = gemm32_cpu, .meta = gemm32_anywhere});

}  // namespace

void multiply32(const Tensor& out, const Tensor& a, const Tensor& b, double beta, double factor,
                GemmLibrary library) {
  gemm32_operator(out, a, b, beta, factor, static_cast<std::int64_t>(library));
}

}  // namespace halftone
