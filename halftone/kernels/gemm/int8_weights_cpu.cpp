// SPDX-License-Identifier: Apache-2.0
// Compiled once for each instruction set; the best one of the machine is chosen at run time.
#include <algorithm>

#include "halftone/kernels/common/highway_targets.h"
#include "halftone/kernels/gemm/int8_weights_impl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/kernels/gemm/int8_weights_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "halftone/kernels/common/convert_impl.h"

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

using DI = hn::RebindToSigned<D>;
using VI = hn::Vec<DI>;

#if HWY_TARGET == HWY_SCALAR  // has no vector of two
void sums_of(const Int8Block& block, std::int32_t* sums) {
  for (std::int64_t r = 0; r < block.x_rows; ++r)
    for (std::int64_t c = 0; c < block.weight_rows; ++c) {
      std::int32_t sum = 0;
      for (std::int64_t i = 0; i < block.stride; ++i)
        sum += block.x[r * block.stride + i] * block.weight[c * block.stride + i];
      sums[r * kInt8WeightRows + c] = sum;
    }
}
#else
using DH = hn::Repartition<std::int16_t, DI>;

HWY_INLINE hn::Vec<DH> load_wide(const std::int8_t* from) {
  const hn::Rebind<std::int8_t, DH> bytes;
  return hn::PromoteTo(DH(), hn::LoadU(bytes, from));
}

/// kRows rows of x times kColumns rows of W.
template <int kRows, int kColumns>
HWY_INLINE void dots(const std::int8_t* x, const std::int8_t* weight, std::int64_t stride,
                     std::int32_t* sums) {
  const DI di;
  VI low[kRows][kColumns];
  VI high[kRows][kColumns];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) low[r][c] = high[r][c] = hn::Zero(di);
  const auto step = static_cast<std::int64_t>(hn::Lanes(DH()));
  for (std::int64_t i = 0; i < stride; i += step) {
    hn::Vec<DH> w[kColumns];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) w[c] = load_wide(weight + c * stride + i);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const hn::Vec<DH> row = load_wide(x + r * stride + i);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c)
        low[r][c] = hn::ReorderWidenMulAccumulate(di, row, w[c], low[r][c], high[r][c]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c)
      sums[r * kInt8WeightRows + c] =
          hn::GetLane(hn::SumOfLanes(di, hn::Add(low[r][c], high[r][c])));
}

template <int kColumns>
HWY_INLINE void all_rows(const Int8Block& block, std::int64_t column, std::int32_t* sums) {
  const std::int8_t* weight = block.weight + column * block.stride;
  std::int64_t r = 0;
  for (; r + 2 <= block.x_rows; r += 2)
    dots<2, kColumns>(block.x + r * block.stride, weight, block.stride,
                      sums + r * kInt8WeightRows + column);
  if (r < block.x_rows)
    dots<1, kColumns>(block.x + r * block.stride, weight, block.stride,
                      sums + r * kInt8WeightRows + column);
}

void sums_of(const Int8Block& block, std::int32_t* sums) {
  std::int64_t column = 0;
  for (; column + 2 <= block.weight_rows; column += 2) all_rows<2>(block, column, sums);
  if (column < block.weight_rows) all_rows<1>(block, column, sums);
}
#endif

template <class Element>
void scale_to(const Int8Block& block, const std::int32_t* sums, typename Element::Type* out,
              std::int64_t out_stride) {
  const D d;
  const DI di;
  for (std::int64_t r = 0; r < block.x_rows; ++r) {
    const V row = hn::Set(d, block.x_scales[r]);
    for (std::int64_t c = 0; c < block.weight_rows; c += lanes()) {
      const std::int64_t count = std::min(lanes(), block.weight_rows - c);
      const V exact = hn::ConvertTo(d, hn::LoadU(di, sums + r * kInt8WeightRows + c));
      const V scale = hn::Mul(load_some<Float>(d, block.weight_scales + c, count), row);
      store_some<Element>(hn::Mul(exact, scale), d, out + r * out_stride + c, count);
    }
  }
}

}  // namespace

void int8_sums_simd(const Int8Block& block, std::int32_t* sums) { sums_of(block, sums); }

void scale_int8_sums_simd(const Int8Block& block, const std::int32_t* sums, KernelType type,
                          void* out, std::int64_t out_stride) {
  with_element(type, [&](auto element) {
    using Element = decltype(element);
    scale_to<Element>(block, sums, static_cast<typename Element::Type*>(out), out_stride);
  });
}

}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(int8_sums_simd);
HWY_EXPORT(scale_int8_sums_simd);

void int8_sums(const Int8Block& block, std::int32_t* sums) {
  HWY_DYNAMIC_DISPATCH(int8_sums_simd)(block, sums);
}

void scale_int8_sums(const Int8Block& block, const std::int32_t* sums, KernelType type, void* out,
                     std::int64_t out_stride) {
  HWY_DYNAMIC_DISPATCH(scale_int8_sums_simd)(block, sums, type, out, out_stride);
}

}  // namespace halftone
#endif
