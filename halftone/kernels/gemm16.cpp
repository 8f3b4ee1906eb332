// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm16.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <cstdint>
#include <limits>

#include "halftone/core/error.h"

// MKL's, inside libtorch_cpu where that was built with it; null otherwise. 101: row major; 111,
// 112: as stored, transposed. Sizes are 32-bit (LP64).
extern "C" {
using MklGemm16 = void(int layout, int trans_a, int trans_b, int m, int n, int k, float alpha,
                       const std::uint16_t* a, int lda, const std::uint16_t* b, int ldb, float beta,
                       float* c, int ldc);
[[gnu::weak]] MklGemm16 cblas_gemm_bf16bf16f32;
[[gnu::weak]] MklGemm16 cblas_gemm_f16f16f32;
}

namespace halftone {
namespace {

using torch::kFloat;
using torch::Tensor;

/// A matrix as BLAS wants it: unit stride along one dimension.
struct BlasMatrix {
  Tensor owner;
  int transposed;  // 111 or 112
  int leading;
};

BlasMatrix as_blas(const Tensor& m) {
  const std::int64_t rows = m.size(0);
  const std::int64_t columns = m.size(1);
  const auto leading = [](std::int64_t stride, std::int64_t least) {
    return static_cast<int>(std::max<std::int64_t>({stride, least, 1}));
  };
  // A single row or column may have any stride along it.
  if (m.stride(1) == 1 && (rows == 1 || m.stride(0) >= columns))
    return {m, 111, leading(rows == 1 ? 0 : m.stride(0), columns)};
  if (m.stride(0) == 1 && (columns == 1 || m.stride(1) >= rows))
    return {m, 112, leading(columns == 1 ? 0 : m.stride(1), rows)};
  return {m.contiguous(), 111, leading(0, columns)};
}

bool fits_int(const Tensor& m) {
  constexpr std::int64_t kMax = std::numeric_limits<int>::max();
  return m.size(0) <= kMax && m.size(1) <= kMax && m.stride(0) <= kMax && m.stride(1) <= kMax;
}

Tensor mkl_gemm(const Tensor& a, const Tensor& b) {
  Tensor c = at::empty({a.size(0), b.size(1)}, a.options().dtype(kFloat));
  const BlasMatrix left = as_blas(a);
  const BlasMatrix right = as_blas(b);
  const auto bits = [](const BlasMatrix& m) {
    return static_cast<const std::uint16_t*>(m.owner.const_data_ptr());
  };
  MklGemm16* gemm =
      a.scalar_type() == torch::kBFloat16 ? cblas_gemm_bf16bf16f32 : cblas_gemm_f16f16f32;
  gemm(101, left.transposed, right.transposed, static_cast<int>(a.size(0)),
       static_cast<int>(b.size(1)), static_cast<int>(a.size(1)), 1.0F, bits(left), left.leading,
       bits(right), right.leading, 0.0F, c.data_ptr<float>(), static_cast<int>(b.size(1)));
  return c;
}

}  // namespace

bool has_mkl_gemm16() {
  return cblas_gemm_bf16bf16f32 != nullptr && cblas_gemm_f16f16f32 != nullptr;
}

Tensor gemm16(const Tensor& a, const Tensor& b, torch::ScalarType out, MatmulPath path) {
  HALFTONE_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0),
                 "[gemm16] expected matrices (M, K) and (K, N), got ", a.sizes(), " and ",
                 b.sizes());
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  if (a.numel() == 0 || b.numel() == 0)
    return at::zeros({a.size(0), b.size(1)}, a.options().dtype(out));
  if (path == MatmulPath::kNative) return at::mm(a, b).to(out);
  if (path == MatmulPath::kMkl && has_mkl_gemm16() && fits_int(a) && fits_int(b))
    return mkl_gemm(a, b).to(out);
  return at::mm(a.to(kFloat), b.to(kFloat)).to(out);
}

}  // namespace halftone
