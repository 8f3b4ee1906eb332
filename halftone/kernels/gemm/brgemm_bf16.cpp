// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/gemm/brgemm_bf16.h"

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>

#include <array>

namespace halftone {
namespace {

namespace blas = at::native::cpublas;

void multiply(const SgemmSize& size, const BrgemmBf16Operand& a, const BrgemmBf16Operand& b,
              bool add, float* c, std::int64_t c_stride) {
  blas::brgemm(size.m, size.n, size.k, a.stride, b.stride, c_stride, add,
               reinterpret_cast<const at::BFloat16*>(a.data),
               reinterpret_cast<const at::BFloat16*>(b.data), c, /*is_vnni=*/true);
}

// LibTorch has no question for it: without the kernels it throws.
bool multiplies_pairs() {
  const auto bits = [](float value) { return at::BFloat16(value).x; };
  const std::array<std::uint16_t, 2> a{bits(1), bits(2)};
  const std::array<std::uint16_t, 4> b{bits(3), bits(4), bits(5), bits(6)};  // 3 5 above 4 6
  std::array<float, 2> c{};
  try {
    multiply({1, 2, 2}, {a.data(), 2}, {b.data(), 2}, false, c.data(), 2);
    blas::brgemm_release();
  } catch (const c10::Error&) {
    return false;
  }
  return c == std::array<float, 2>{11, 17};
}

}  // namespace

bool has_brgemm_bf16() {
  if (!at::globalContext().userEnabledMkldnn()) return false;
  static const bool works = multiplies_pairs();
  return works;
}

void brgemm_bf16(const SgemmSize& size, const BrgemmBf16Operand& a, const BrgemmBf16Operand& b,
                 bool add, float* c, std::int64_t c_stride) {
  multiply(size, a, b, add, c, c_stride);
}

BrgemmBf16Region::~BrgemmBf16Region() { blas::brgemm_release(); }

}  // namespace halftone
