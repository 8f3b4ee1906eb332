// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/gemm_half.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "halftone/core/error.h"
#include "halftone/kernels/gemm/fast_cpu_gemms.h"
#include "halftone/kernels/gemm/gemm32.h"

namespace halftone {

using torch::Tensor;

Tensor gemm_half(const Tensor& a, const Tensor& b, torch::ScalarType out, GemmBackend path,
                 std::optional<GemmLibrary> fp32) {
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
  const GemmLibrary library = fp32 ? *fp32 : cpu_gemm_config().fp32;
  return gemm32(a.to(torch::kFloat), b.to(torch::kFloat), library).to(out);
}

void gemm_half_add(const Tensor& sum, const Tensor& a, const Tensor& b, GemmBackend path,
                   double factor) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  if (path == GemmBackend::kUpcast && sum.scalar_type() == torch::kFloat && a.numel() > 0 &&
      b.numel() > 0) {
    gemm32_add(sum, a.to(torch::kFloat), b.to(torch::kFloat), factor);
    return;
  }
  const torch::ScalarType narrow =
      path == GemmBackend::kNative ? a.scalar_type() : sum.scalar_type();
  const std::int64_t rows = sum.size(0);
  const std::int64_t step = sum.numel() > kLargeSum
                                ? std::max<std::int64_t>(1, kSumBlock / sum.size(1))
                                : std::max<std::int64_t>(1, rows);
  // Without data one block has the memory of any: a plan of a weight of 10^11 numbers has 10^5.
  const std::int64_t end = sum.is_meta() ? std::min(step, rows) : rows;
  for (std::int64_t row = 0; row < end; row += step) {
    const std::int64_t count = std::min(step, rows - row);
    // LibTorch would widen a block that was rounded to 16 bits by a copy as well.
    const Tensor block = gemm_half(a.narrow(0, row, count), b, narrow, path).to(sum.scalar_type());
    sum.narrow(0, row, count).add_(block, factor);
  }
}

}  // namespace halftone
