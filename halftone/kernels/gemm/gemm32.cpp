// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/gemm32.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "halftone/core/error.h"
#include "halftone/kernels/gemm/gemm32_impl.h"
#include "halftone/kernels/gemm/onednn_matmul.h"

namespace halftone {
namespace {

using torch::Tensor;

/// Multiply-adds from which oneDNN's matmul pays for looking up its kernel by shape.
constexpr std::int64_t kWorthOneDnn = std::int64_t{1} << 22U;

bool is_matrix(const Tensor& t) { return t.dim() == 2 && t.scalar_type() == torch::kFloat; }

bool is_major(const Tensor& t) {
  return (t.stride(1) == 1 && t.stride(0) >= t.size(1)) ||
         (t.stride(0) == 1 && t.stride(1) >= t.size(0));
}

/// LibTorch's own test of the CPU is not exported; it throws.
bool try_onednn() {
  if (!has_onednn_matmul()) return false;
  const Tensor a = at::zeros({16, 16}), out = at::empty({16, 16});
  try {
    onednn_matmul(out, a, a, 0.0F, 1.0F);
    return true;
  } catch (const c10::Error&) {
    return false;
  }
}

bool takes_onednn(const Tensor& out, const Tensor& a, const Tensor& b) {
  return is_matrix(out) && is_matrix(a) && is_matrix(b) && out.is_contiguous() && is_major(a) &&
         is_major(b) && a.size(0) * a.size(1) * b.size(1) >= kWorthOneDnn && has_onednn_gemm32();
}

void multiply(const Tensor& out, const Tensor& a, const Tensor& b, double beta, double factor,
              GemmLibrary library) {
  const torch::NoGradGuard no_grad;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  multiply32(out, a, b, beta, factor, library);
}

}  // namespace

void multiply32_by_libtorch(const Tensor& out, const Tensor& a, const Tensor& b, double beta,
                            double factor) {
  if (beta == 0.0 && factor == 1.0) {
    Tensor result = out;
    at::mm_out(result, a, b);
  } else {
    out.addmm_(a, b, beta, factor);
  }
}

void multiply32_cpu(const Tensor& out, const Tensor& a, const Tensor& b, double beta, double factor,
                    GemmLibrary library) {
  if (library == GemmLibrary::kOneDnn && takes_onednn(out, a, b))
    onednn_matmul(out, a, b, static_cast<float>(beta), static_cast<float>(factor));
  else
    multiply32_by_libtorch(out, a, b, beta, factor);
}

bool goes_to_onednn(std::int64_t multiply_adds) {
  return cpu_gemm_config().fp32 == GemmLibrary::kOneDnn && multiply_adds >= kWorthOneDnn &&
         has_onednn_gemm32();
}

bool has_onednn_gemm32() {
  static const bool works = try_onednn();
  return works;
}

Tensor gemm32(const Tensor& a, const Tensor& b, GemmLibrary library) {
  HALFTONE_CHECK(a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0),
                 "[gemm32] expected matrices (M, K) and (K, N), got ", a.sizes(), " and ",
                 b.sizes());
  Tensor out = at::empty({a.size(0), b.size(1)}, a.options());
  multiply(out, a, b, 0.0, 1.0, library);
  return out;
}

void gemm32_out(const Tensor& out, const Tensor& a, const Tensor& b, GemmLibrary library) {
  multiply(out, a, b, 0.0, 1.0, library);
}

void gemm32_add(const Tensor& sum, const Tensor& a, const Tensor& b, double factor,
                GemmLibrary library) {
  multiply(sum, a, b, 1.0, factor, library);
}

}  // namespace halftone
