// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/gemm_half.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "halftone/core/error.h"
#include "halftone/kernels/gemm/fast_cpu_gemms.h"
#include "halftone/kernels/gemm/gemm32.h"

namespace halftone {

using torch::Tensor;

Tensor gemm_half(const Tensor& a, const Tensor& b, torch::ScalarType out, GemmBackend path,
                 GemmLibrary fp32) {
  HALFTONE_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0),
                 "[gemm_half] expected matrices (M, K) and (K, N), got ", a.sizes(), " and ",
                 b.sizes());
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  if (a.numel() == 0 || b.numel() == 0)
    return at::zeros({a.size(0), b.size(1)}, a.options().dtype(out));
  if (path == GemmBackend::kNative) {
    const OriginalCpuGemms native;
    return at::mm(a, b).to(out);
  }
  return gemm32(a.to(torch::kFloat), b.to(torch::kFloat), fp32).to(out);
}

void gemm_half_add(const Tensor& into, const Tensor& a, const Tensor& b, GemmBackend path) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  if (path == GemmBackend::kUpcast && into.scalar_type() == torch::kFloat && a.numel() > 0 &&
      b.numel() > 0) {
    gemm32_add(into, a.to(torch::kFloat), b.to(torch::kFloat));
    return;
  }
  // The sum upcasts a matmul that was rounded to 16 bits: no pass of its own.
  const torch::ScalarType narrow =
      path == GemmBackend::kNative ? a.scalar_type() : into.scalar_type();
  into.add_(gemm_half(a, b, narrow, path));
}

}  // namespace halftone
