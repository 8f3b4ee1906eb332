// SPDX-License-Identifier: Apache-2.0
// Compiled once for each instruction set; the best one of the machine is chosen at run time.
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "halftone/kernels/common/highway_targets.h"
#include "halftone/kernels/gemm/int8_impl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/kernels/gemm/int8_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "halftone/kernels/common/convert_impl.h"

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {

using DI = hn::RebindToSigned<D>;
using DU = hn::RebindToUnsigned<D>;
using VI = hn::Vec<DI>;

constexpr std::int64_t kMaxLanes = HWY_MAX_BYTES / sizeof(float);

// As integers, magnitudes of floats have the order of their values, then inf, then nan.
HWY_INLINE VI magnitude_bits(V values) {
  const DI di;
  return hn::And(hn::BitCast(di, values), hn::Set(di, 0x7FFFFFFF));
}

struct Scale {
  float scale;
  float inverse;
};

Scale scale_of(std::int32_t largest_bits, float largest) {
  constexpr std::int32_t kInfinityBits = 0x7F800000;
  // Smaller than any gradient that can still move a weight; far enough from 0 to be inverted.
  constexpr float kSmallest = 1e-30F;
  if (largest_bits >= kInfinityBits) return {std::numeric_limits<float>::quiet_NaN(), 0.0F};
  const float magnitude = std::max(std::bit_cast<float>(largest_bits), kSmallest);
  return {magnitude / largest, largest / magnitude};
}

// rounding_bits() of a vector of indices.
HWY_INLINE hn::Vec<DU> random_bits(hn::Vec<DU> index, const Int8Format& format) {
  const DU du;
  auto x = hn::Xor(index, hn::Set(du, format.key[0]));
  x = hn::Mul(hn::Xor(x, hn::ShiftRight<16>(x)), hn::Set(du, 0x7FEB352DU));
  x = hn::Add(x, hn::Set(du, format.key[1]));
  x = hn::Mul(hn::Xor(x, hn::ShiftRight<15>(x)), hn::Set(du, 0x846CA68BU));
  return hn::Xor(x, hn::ShiftRight<16>(x));
}

template <bool kStochastic>
HWY_INLINE VI to_integers(V values, V inverse, hn::Vec<DU> index, const Int8Format& format) {
  const D d;
  const DI di;
  V scaled = hn::Mul(values, inverse);
  if constexpr (kStochastic) {
    const V uniform =
        hn::Mul(hn::ConvertTo(d, hn::BitCast(di, hn::ShiftRight<8>(random_bits(index, format)))),
                hn::Set(d, 0x1p-24F));
    scaled = hn::Floor(hn::Add(scaled, uniform));
  }
  const VI limit = hn::Set(di, static_cast<std::int32_t>(format.largest));
  return hn::Max(hn::Min(hn::NearestInt(scaled), limit), hn::Neg(limit));
}

template <class Element>
const typename Element::Type* row_of(const Int8Source& source, std::int64_t row) {
  return static_cast<const typename Element::Type*>(source.values) + row * source.stride;
}

template <class Element, bool kStochastic>
void quantize_one_row(const Int8Source& source, const Int8Format& format, std::int64_t row,
                      std::uint8_t* bytes, float* scale, std::int32_t* sum) {
  const D d;
  const DI di;
  const DU du;
  const hn::Rebind<std::uint8_t, DI> d8;
  const auto* values = row_of<Element>(source, row);
  const std::int64_t columns = source.columns;
  const auto load = [&](std::int64_t c) { return load_some<Element>(d, values + c, columns - c); };
  VI largest = hn::Zero(di);
  for (std::int64_t c = 0; c < columns; c += lanes())
    largest = hn::Max(largest, magnitude_bits(load(c)));
  const Scale factor = scale_of(hn::GetLane(hn::MaxOfLanes(di, largest)), format.largest);
  const V inverse = hn::Set(d, factor.inverse);
  const VI zero = hn::Set(di, format.zero);
  const auto first = static_cast<std::uint32_t>(row * columns);
  VI total = hn::Zero(di);
  const std::int64_t padded = (columns + 3) / 4 * 4;
  for (std::int64_t c = 0; c < columns; c += lanes()) {
    const VI integers = to_integers<kStochastic>(
        load(c), inverse, hn::Iota(du, first + static_cast<std::uint32_t>(c)), format);
    total = hn::Add(total, integers);
    // In two's complement for the operand whose zero is 0, so the low bytes are what is wanted.
    const auto narrow = hn::DemoteTo(d8, hn::And(hn::Add(integers, zero), hn::Set(di, 0xFF)));
    if (padded - c >= lanes()) {
      hn::StoreU(narrow, d8, bytes + c);
    } else {
      std::uint8_t rest[kMaxLanes];
      hn::StoreU(narrow, d8, rest);
      // The bound is for the compiler, which does not see that fewer than all lanes are left.
      std::memcpy(bytes + c, rest, std::min(static_cast<std::size_t>(padded - c), sizeof(rest)));
    }
  }
  *scale = factor.scale;
  *sum = hn::GetLane(hn::SumOfLanes(di, total));
}

// Columns that are read together: whole cache lines, and few enough to stay in the second cache.
constexpr std::int64_t kStrip = 64;

struct Strip {
  std::int64_t column;
  std::int64_t count;  // at most kStrip
};

struct StripState {
  HWY_ALIGN std::int32_t largest[kStrip + kMaxLanes];  // as bits
  HWY_ALIGN float inverse[kStrip + kMaxLanes];
  HWY_ALIGN std::int32_t total[kStrip + kMaxLanes];
};

template <class Element>
void find_largest(const Int8Source& source, const Strip& strip, StripState& state) {
  const D d;
  const DI di;
  for (std::int64_t r = 0; r < source.rows; ++r) {
    const auto* values = row_of<Element>(source, r) + strip.column;
    for (std::int64_t c = 0; c < strip.count; c += lanes()) {
      const VI bits = magnitude_bits(load_some<Element>(d, values + c, strip.count - c));
      hn::Store(hn::Max(hn::Load(di, state.largest + c), bits), di, state.largest + c);
    }
  }
}

/// Four rows' integers of up to a vector of columns, as quads.
template <class Element, bool kStochastic>
HWY_INLINE hn::Vec<DU> quantize_quad(const Int8Source& source, const Int8Format& format,
                                     std::int64_t row, const Strip& columns, V inverse, VI* total) {
  const D d;
  const DI di;
  const DU du;
  const VI zero = hn::Set(di, format.zero);
  auto quad = hn::Zero(du);
  for (std::int64_t i = 3; i >= 0; --i) {
    VI integers = hn::Zero(di);
    if (row + i < source.rows) {
      const auto first = static_cast<std::uint32_t>((row + i) * source.columns + columns.column);
      const auto* values = row_of<Element>(source, row + i) + columns.column;
      integers = to_integers<kStochastic>(load_some<Element>(d, values, columns.count), inverse,
                                          hn::Iota(du, first), format);
    }
    *total = hn::Add(*total, integers);
    const VI byte = hn::And(hn::Add(integers, zero), hn::Set(di, 0xFF));
    quad = hn::Or(hn::ShiftLeft<8>(quad), hn::BitCast(du, byte));
  }
  return quad;
}

HWY_INLINE void store(hn::Vec<DU> quad, std::uint32_t* target, std::int64_t count) {
  const DU du;
  if (count >= lanes()) return hn::StoreU(quad, du, target);
  HWY_ALIGN std::uint32_t rest[kMaxLanes];
  hn::Store(quad, du, rest);
  std::memcpy(target, rest, static_cast<std::size_t>(count) * sizeof(*rest));
}

template <class Element, bool kStochastic>
void quantize_strip(const Int8Source& source, const Int8Format& format, const Strip& strip,
                    std::uint32_t* quads, float* scales, std::int32_t* sums) {
  const D d;
  const DI di;
  StripState state = {};
  find_largest<Element>(source, strip, state);
  for (std::int64_t i = 0; i < strip.count; ++i) {
    const Scale factor = scale_of(state.largest[i], format.largest);
    scales[strip.column + i] = factor.scale;
    state.inverse[i] = factor.inverse;
  }
  for (std::int64_t r = 0; r < source.rows; r += 4) {
    std::uint32_t* target = quads + r / 4 * source.columns + strip.column;
    for (std::int64_t c = 0; c < strip.count; c += lanes()) {
      VI total = hn::Load(di, state.total + c);
      const Strip columns{strip.column + c, strip.count - c};
      const auto quad = quantize_quad<Element, kStochastic>(source, format, r, columns,
                                                            hn::Load(d, state.inverse + c), &total);
      store(quad, target + c, columns.count);
      hn::Store(total, di, state.total + c);
    }
  }
  std::copy_n(state.total, strip.count, sums + strip.column);
}

void quantize_rows_simd(const Int8Source& source, const Int8Format& format, std::int64_t begin,
                        std::int64_t end, std::uint32_t* quads, float* scales, std::int32_t* sums) {
  const std::int64_t width = (source.columns + 3) / 4;
  with_element(source.type, [&](auto element) {
    using Element = decltype(element);
    const auto one_row =
        format.stochastic ? quantize_one_row<Element, true> : quantize_one_row<Element, false>;
    for (std::int64_t r = begin; r < end; ++r)
      one_row(source, format, r, reinterpret_cast<std::uint8_t*>(quads + r * width), scales + r,
              sums + r);
  });
}

void quantize_columns_simd(const Int8Source& source, const Int8Format& format, std::int64_t begin,
                           std::int64_t end, std::uint32_t* quads, float* scales,
                           std::int32_t* sums) {
  with_element(source.type, [&](auto element) {
    using Element = decltype(element);
    const auto quantize =
        format.stochastic ? quantize_strip<Element, true> : quantize_strip<Element, false>;
    for (std::int64_t c = begin; c < end; c += kStrip)
      quantize(source, format, {c, std::min(kStrip, end - c)}, quads, scales, sums);
  });
}

HWY_INLINE V dequantized(const Int8Sums& block, std::int64_t row, std::int64_t column) {
  const D d;
  const DI di;
  const VI sums = hn::LoadU(di, block.sums + row * block.columns + column);
  const VI offset = hn::Mul(hn::LoadU(di, block.right_sums + column), hn::Set(di, block.zero));
  const V scale =
      hn::Mul(hn::LoadU(d, block.right_scales + column), hn::Set(d, block.left_scales[row]));
  return hn::Mul(hn::ConvertTo(d, hn::Sub(sums, offset)), scale);
}

float one_dequantized(const Int8Sums& block, std::int64_t row, std::int64_t column) {
  const std::int32_t exact =
      block.sums[row * block.columns + column] - block.zero * block.right_sums[column];
  return static_cast<float>(exact) * (block.right_scales[column] * block.left_scales[row]);
}

void add_dequantized_simd(const Int8Sums& block, float* out) {
  const D d;
  for (std::int64_t r = 0; r < block.rows; ++r) {
    float* line = out + r * block.columns;
    std::int64_t c = 0;
    for (; c + lanes() <= block.columns; c += lanes())
      hn::StoreU(hn::Add(dequantized(block, r, c), hn::LoadU(d, line + c)), d, line + c);
    for (; c < block.columns; ++c) line[c] = one_dequantized(block, r, c) + line[c];
  }
}

template <class Element>
void dequantize_to(const Int8Sums& block, typename Element::Type* out) {
  const D d;
  for (std::int64_t r = 0; r < block.rows; ++r) {
    typename Element::Type* line = out + r * block.columns;
    std::int64_t c = 0;
    for (; c + lanes() <= block.columns; c += lanes())
      Element::store(dequantized(block, r, c), d, line + c);
    for (; c < block.columns; ++c)
      store_some<Element>(hn::Set(d, one_dequantized(block, r, c)), d, line + c, 1);
  }
}

void dequantize_simd(const Int8Sums& block, KernelType type, void* out) {
  with_element(type, [&](auto element) {
    using Element = decltype(element);
    dequantize_to<Element>(block, static_cast<typename Element::Type*>(out));
  });
}

}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(quantize_rows_simd);
HWY_EXPORT(quantize_columns_simd);
HWY_EXPORT(add_dequantized_simd);
HWY_EXPORT(dequantize_simd);

void quantize_rows(const Int8Source& source, const Int8Format& format, std::int64_t begin,
                   std::int64_t end, std::uint32_t* quads, float* scales, std::int32_t* sums) {
  HWY_DYNAMIC_DISPATCH(quantize_rows_simd)(source, format, begin, end, quads, scales, sums);
}

void quantize_columns(const Int8Source& source, const Int8Format& format, std::int64_t begin,
                      std::int64_t end, std::uint32_t* quads, float* scales, std::int32_t* sums) {
  HWY_DYNAMIC_DISPATCH(quantize_columns_simd)(source, format, begin, end, quads, scales, sums);
}

void add_dequantized(const Int8Sums& block, float* out) {
  HWY_DYNAMIC_DISPATCH(add_dequantized_simd)(block, out);
}

void dequantize(const Int8Sums& block, KernelType type, void* out) {
  HWY_DYNAMIC_DISPATCH(dequantize_simd)(block, type, out);
}

}  // namespace halftone
#endif
