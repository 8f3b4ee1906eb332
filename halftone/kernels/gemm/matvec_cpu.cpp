// SPDX-License-Identifier: Apache-2.0
// Compiled once for each instruction set; the best one of the machine is chosen at run time. What
// limits a matrix-vector product is reading the matrix, so it is read once, in the order of its
// addresses: the hardware's prefetching does better with that than with hints or several streams.
#include <algorithm>

#include "halftone/kernels/common/highway_targets.h"
#include "halftone/kernels/gemm/matvec_impl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/kernels/gemm/matvec_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "halftone/kernels/common/convert_impl.h"

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

constexpr std::int64_t kMaxLanes = HWY_MAX_BYTES / sizeof(float);

/// fp32 elements rounded to Narrow's format as they are loaded.
template <class Narrow>
struct Rounded {
  using Type = float;
  static HWY_INLINE V load(D d, const float* from) {
    return Narrow::rounded(d, hn::LoadU(d, from));
  }
};

/// Running sums of a row, so that one addition need not wait for the last. An array: a struct would
/// have constructors, which the compiler makes without the instruction set's attributes.
constexpr int kSums = 4;

HWY_INLINE float total(const V* sums) {
  return hn::GetLane(
      hn::SumOfLanes(D(), hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]))));
}

/// Dot products of one row of W with kRows rows of x.
template <class Element, int kRows>
HWY_INLINE void dot(const typename Element::Type* weight, const float* x, std::int64_t columns,
                    float* totals) {
  const D d;
  const std::int64_t n = lanes();
  V sums[kRows][kSums];
#pragma GCC unroll 2
  for (int r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = sums[r][2] = sums[r][3] = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + kSums * n <= columns; i += kSums * n) {
    const V w0 = Element::load(d, weight + i);
    const V w1 = Element::load(d, weight + i + n);
    const V w2 = Element::load(d, weight + i + 2 * n);
    const V w3 = Element::load(d, weight + i + 3 * n);
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) {
      const float* from = x + r * columns + i;
      sums[r][0] = hn::MulAdd(w0, hn::LoadU(d, from), sums[r][0]);
      sums[r][1] = hn::MulAdd(w1, hn::LoadU(d, from + n), sums[r][1]);
      sums[r][2] = hn::MulAdd(w2, hn::LoadU(d, from + 2 * n), sums[r][2]);
      sums[r][3] = hn::MulAdd(w3, hn::LoadU(d, from + 3 * n), sums[r][3]);
    }
  }
  for (; i + n <= columns; i += n) {
    const V w = Element::load(d, weight + i);
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r)
      sums[r][0] = hn::MulAdd(w, hn::LoadU(d, x + r * columns + i), sums[r][0]);
  }
  if (i < columns) {
    const V w = load_some<Element>(d, weight + i, columns - i);
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r)
      sums[r][1] = hn::MulAdd(w, load_some<Float>(d, x + r * columns + i, columns - i), sums[r][1]);
  }
#pragma GCC unroll 2
  for (int r = 0; r < kRows; ++r) totals[r] = total(sums[r]);
}

template <class Element, class Out>
void multiply(const MatvecOperands& operands, std::int64_t begin, std::int64_t end, void* out,
              std::int64_t out_stride) {
  const D d;
  const auto* weight = static_cast<const typename Element::Type*>(operands.weight);
  auto* target = static_cast<typename Out::Type*>(out);
  const std::int64_t columns = operands.columns;
  for (std::int64_t first = begin; first < end; first += lanes()) {
    const std::int64_t count = std::min(lanes(), end - first);
    HWY_ALIGN float totals[kMaxMatvecRows][kMaxLanes] = {};
    for (std::int64_t j = 0; j < count; ++j) {
      const auto* row = weight + (first + j) * operands.stride;
      float pair[2];
      for (std::int64_t r = 0; r < operands.rows; r += 2) {
        const float* x = operands.x + r * columns;
        if (r + 1 < operands.rows) {
          dot<Element, 2>(row, x, columns, pair);
          totals[r + 1][j] = pair[1];
        } else {
          dot<Element, 1>(row, x, columns, pair);
        }
        totals[r][j] = pair[0];
      }
    }
    for (std::int64_t r = 0; r < operands.rows; ++r) {
      store_some<Out>(hn::Load(d, totals[r]), d, target + r * out_stride + first, count);
    }
  }
}

template <class Element>
void multiply_to(const MatvecOperands& operands, std::int64_t begin, std::int64_t end, void* out,
                 std::int64_t out_stride) {
  return with_element(operands.out_type, [&](auto element) {
    return multiply<Element, decltype(element)>(operands, begin, end, out, out_stride);
  });
}

template <class Element>
void widen_all(const void* from, std::int64_t count, float* to) {
  const D d;
  const auto* values = static_cast<const typename Element::Type*>(from);
  for (std::int64_t i = 0; i < count; i += lanes())
    store_some<Float>(load_some<Element>(d, values + i, count - i), d, to + i, count - i);
}

}  // namespace

void widen_simd(const void* from, KernelType type, std::int64_t count, float* to) {
  return with_element(type,
                      [&](auto element) { return widen_all<decltype(element)>(from, count, to); });
}

void matvec_simd(const MatvecOperands& operands, std::int64_t begin, std::int64_t end, void* out,
                 std::int64_t out_stride) {
  const auto multiply_by = [&](auto element) {
    multiply_to<decltype(element)>(operands, begin, end, out, out_stride);
  };
  switch (operands.weight_type) {
    case KernelType::kBFloat16:
      return multiply_by(BFloat16());
    case KernelType::kHalf:
      return multiply_by(Half());
    case KernelType::kFloat:
      if (operands.product_type == KernelType::kBFloat16) return multiply_by(Rounded<BFloat16>());
      if (operands.product_type == KernelType::kHalf) return multiply_by(Rounded<Half>());
      return multiply_by(Float());
  }
}

}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(matvec_simd);
HWY_EXPORT(widen_simd);

void widen(const void* from, KernelType type, std::int64_t count, float* to) {
  HWY_DYNAMIC_DISPATCH(widen_simd)(from, type, count, to);
}

void matvec_range(const MatvecOperands& operands, std::int64_t begin, std::int64_t end, void* out,
                  std::int64_t out_stride) {
  HWY_DYNAMIC_DISPATCH(matvec_simd)(operands, begin, end, out, out_stride);
}

}  // namespace halftone
#endif
