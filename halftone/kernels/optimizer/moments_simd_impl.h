// SPDX-License-Identifier: Apache-2.0
// 8-bit codes to fp32 vectors and back. Included by the *_cpu.cpp files after convert_impl.h, once
// for each instruction set: hence the toggling guard. Nothing here is compiled for HWY_SCALAR.
#if defined(HALFTONE_KERNELS_MOMENTS_SIMD_IMPL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HALFTONE_KERNELS_MOMENTS_SIMD_IMPL_H_
#undef HALFTONE_KERNELS_MOMENTS_SIMD_IMPL_H_
#else
#define HALFTONE_KERNELS_MOMENTS_SIMD_IMPL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <cstring>

#include "halftone/kernels/common/convert_impl.h"
#include "halftone/kernels/optimizer/moments_impl.h"

#if HWY_TARGET != HWY_SCALAR
HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DI = hn::RebindToSigned<D>;
using VI = hn::Vec<DI>;

/// One value for each decade, to be looked up by the decades of a vector. NEON's vectors hold half
/// of the eight: both halves are looked up there.
struct DecadeTable {
  static constexpr std::int32_t kHalf = 4;
  static constexpr bool kIsHalved = HWY_MAX_BYTES < 2 * kHalf * sizeof(float);

  HWY_INLINE explicit DecadeTable(const std::array<float, 8>& from) {
    float padded[8 + HWY_MAX_BYTES / sizeof(float)] = {};
    std::memcpy(padded, from.data(), sizeof from);
    values = hn::LoadU(D(), padded);
    upper = hn::LoadU(D(), padded + kHalf);
  }
  HWY_INLINE V operator()(VI decade) const {
    const D d;
    if constexpr (!kIsHalved) {
      return hn::TableLookupLanes(values, hn::IndicesFromVec(d, decade));
    } else {
      const DI di;
      const auto place = hn::IndicesFromVec(d, hn::And(decade, hn::Set(di, kHalf - 1)));
      const auto is_upper = hn::RebindMask(d, hn::Gt(decade, hn::Set(di, kHalf - 1)));
      return hn::IfThenElse(is_upper, hn::TableLookupLanes(upper, place),
                            hn::TableLookupLanes(values, place));
    }
  }
  V values, upper;
};

/// The registers of a map, for both directions.
template <bool kRoot>
struct MapTables {
  static constexpr const DynamicMap& kMap = kRoot ? kUnsignedMap : kSignedMap;

  HWY_INLINE MapTables()
      : step(kMap.step),
        origin(kMap.origin),
        inverse(kMap.inverse),
        shift(kMap.shift),
        last(kMap.last),
        threshold(kMap.threshold) {}

  DecadeTable step, origin, inverse, shift, last, threshold;
};

/// Values of codes, of the scale 1.
template <bool kRoot>
HWY_INLINE V decode(const MapTables<kRoot>& tables, const std::uint8_t* codes) {
  constexpr const DynamicMap& map = MapTables<kRoot>::kMap;
  const D d;
  const DI di;
  const VI byte = hn::PromoteTo(di, hn::LoadU(hn::Rebind<std::uint8_t, D>(), codes));
  VI number = byte;
  V sign = hn::Zero(d);
  if constexpr (!kRoot) {
    const auto negative = hn::Gt(byte, hn::Set(di, static_cast<std::int32_t>(map.top)));
    number = hn::IfThenElse(negative, hn::Sub(hn::Set(di, 256), byte), byte);
    sign = hn::BitCast(d, hn::IfThenElseZero(negative, hn::Set(di, INT32_MIN)));
  }
  const V place = hn::Add(hn::ConvertTo(d, number), hn::Set(d, map.offset));
  const VI exponent = hn::Sub(hn::ShiftRight<23>(hn::BitCast(di, place)),
                              hn::Set(di, static_cast<std::int32_t>(map.exponent)));
  const VI decade = hn::And(exponent, hn::Set(di, 7));
  return hn::Or(hn::Add(hn::Mul(place, tables.step(decade)), tables.origin(decade)), sign);
}

/// The decade that the number nearest to `size` in [0, 1] is in: a binary search.
template <bool kRoot>
HWY_INLINE VI decade_of(const MapTables<kRoot>& tables, V size) {
  constexpr const std::array<float, 8>& threshold = MapTables<kRoot>::kMap.threshold;
  const D d;
  const DI di;
  const auto upper = hn::Ge(size, hn::Set(d, threshold[3]));
  const V quarter = hn::IfThenElse(upper, hn::Set(d, threshold[5]), hn::Set(d, threshold[1]));
  const auto odd_quarter = hn::RebindMask(di, hn::Ge(size, quarter));
  VI decade = hn::IfThenElseZero(hn::RebindMask(di, upper), hn::Set(di, 4));
  decade = hn::Add(decade, hn::IfThenElseZero(odd_quarter, hn::Set(di, 2)));
  const auto odd = hn::RebindMask(di, hn::Ge(size, tables.threshold(decade)));
  return hn::Add(decade, hn::IfThenElseZero(odd, hn::Set(di, 1)));
}

/// The position of `size` among the decade's numbers, up to rounding errors. It is exact at a
/// number and clamped to the last.
template <bool kRoot>
HWY_INLINE V place_of(const MapTables<kRoot>& tables, V size, VI decade) {
  return hn::Min(hn::Add(hn::Mul(size, tables.inverse(decade)), tables.shift(decade)),
                 tables.last(decade));
}

/// The number nearest to `size`, which stands at `place`. The comparison is exact, since a
/// difference of floats within a factor of two of each other is. Halfway goes away from 0.
template <bool kRoot>
HWY_INLINE V nearest_number(const MapTables<kRoot>& tables, V size, VI decade, V place) {
  const D d;
  const V one = hn::Set(d, 1.0F);
  const V below = hn::Floor(place);
  const V argument = hn::Add(below, hn::Set(d, MapTables<kRoot>::kMap.offset));
  const V step = tables.step(decade);
  const V origin = tables.origin(decade);
  const V low = hn::Add(hn::Mul(argument, step), origin);
  const V high = hn::Add(hn::Mul(hn::Add(argument, one), step), origin);
  const auto is_high = hn::Le(hn::Sub(high, size), hn::Sub(size, low));
  return hn::Min(hn::Add(below, hn::IfThenElseZero(is_high, one)), tables.last(decade));
}

/// The code of x, whose magnitude is nearest to that of `number`, unless it is nearest to 1.
template <bool kRoot>
HWY_INLINE void store_code(V x, V number, std::uint8_t* codes) {
  constexpr const DynamicMap& map = MapTables<kRoot>::kMap;
  const D d;
  const hn::RebindToUnsigned<D> du;
  // No root becomes 0 that is not: it would leave exp_avg undivided.
  if constexpr (kRoot)
    number = hn::Max(number, hn::IfThenElseZero(hn::Gt(x, hn::Zero(d)), hn::Set(d, 1.0F)));
  const auto is_top = hn::Ge(x, hn::Set(d, map.threshold[7]));  // there is no -1
  number = hn::IfThenElse(is_top, hn::Set(d, static_cast<float>(map.top)), number);
  if constexpr (!kRoot) number = hn::Or(number, hn::And(x, hn::Set(d, -0.0F)));
  // In the last bits of a float of this size stands its integer.
  const auto integer = hn::BitCast(du, hn::Add(number, hn::Set(d, 0x1.8p23F)));
  const auto byte = hn::U8FromU32(hn::And(integer, hn::Set(du, 0xFFU)));
  hn::StoreU(byte, hn::Rebind<std::uint8_t, D>(), codes);
}

template <bool kRoot>
HWY_INLINE V magnitude(V x) {
  return kRoot ? x : hn::Abs(x);
}

/// The codes of four vectors in [-1, 1] ([0, 1] for roots; a rounding error beyond does no harm).
/// Each is one long chain of dependent instructions, of which a CPU sees too few at a time to find
/// the next: hence four side by side.
template <bool kRoot>
HWY_INLINE void encode_four(const MapTables<kRoot>& tables, const float* values, V inverse,
                            std::uint8_t* codes) {
  const D d;
  const std::int64_t n = lanes();
  const V x0 = hn::Mul(hn::LoadU(d, values), inverse);
  const V x1 = hn::Mul(hn::LoadU(d, values + n), inverse);
  const V x2 = hn::Mul(hn::LoadU(d, values + 2 * n), inverse);
  const V x3 = hn::Mul(hn::LoadU(d, values + 3 * n), inverse);
  const VI decade0 = decade_of(tables, magnitude<kRoot>(x0));
  const VI decade1 = decade_of(tables, magnitude<kRoot>(x1));
  const VI decade2 = decade_of(tables, magnitude<kRoot>(x2));
  const VI decade3 = decade_of(tables, magnitude<kRoot>(x3));
  const V place0 = place_of(tables, magnitude<kRoot>(x0), decade0);
  const V place1 = place_of(tables, magnitude<kRoot>(x1), decade1);
  const V place2 = place_of(tables, magnitude<kRoot>(x2), decade2);
  const V place3 = place_of(tables, magnitude<kRoot>(x3), decade3);
  V number0 = hn::Round(place0);
  V number1 = hn::Round(place1);
  V number2 = hn::Round(place2);
  V number3 = hn::Round(place3);
  const V off01 = hn::Max(hn::Abs(hn::Sub(place0, number0)), hn::Abs(hn::Sub(place1, number1)));
  const V off23 = hn::Max(hn::Abs(hn::Sub(place2, number2)), hn::Abs(hn::Sub(place3, number3)));
  // Closer to the middle between two numbers than the places' rounding errors, 1e-4 at the most?
  if (!hn::AllFalse(d, hn::Gt(hn::Max(off01, off23), hn::Set(d, 0.4995F)))) {
    number0 = nearest_number(tables, magnitude<kRoot>(x0), decade0, place0);
    number1 = nearest_number(tables, magnitude<kRoot>(x1), decade1, place1);
    number2 = nearest_number(tables, magnitude<kRoot>(x2), decade2, place2);
    number3 = nearest_number(tables, magnitude<kRoot>(x3), decade3, place3);
  }
  store_code<kRoot>(x0, number0, codes);
  store_code<kRoot>(x1, number1, codes + n);
  store_code<kRoot>(x2, number2, codes + 2 * n);
  store_code<kRoot>(x3, number3, codes + 3 * n);
}

/// A whole block: its scale is its largest magnitude; nan when something in it is nan. A scale that
/// is not finite, or too small, gives codes of 0.
template <bool kRoot>
HWY_INLINE void encode_block(const MapTables<kRoot>& tables, const float* values, float scale,
                             std::uint8_t* codes) {
  if (!(scale >= kLeastScale && scale <= 3.40282347e38F)) {
    std::memset(codes, 0, kMomentBlock);
    return;
  }
  const V inverse = hn::Set(D(), 1.0F / scale);
  for (std::int64_t i = 0; i < kMomentBlock; i += 4 * lanes())
    encode_four<kRoot>(tables, values + i, inverse, codes + i);
}

/// The scale of a block of roots whose largest is `scale`. Where a square is beyond fp32, as that
/// of a finite gradient may be, its root is lowered: an inf would spoil the block.
HWY_INLINE float with_finite_squares(float* roots, float scale) {
  if (!(scale > kLargestRoot)) return scale;  // nan stays
  const V largest = hn::Set(D(), kLargestRoot);
  for (std::int64_t i = 0; i < kMomentBlock; i += lanes())
    hn::StoreU(hn::Min(hn::LoadU(D(), roots + i), largest), D(), roots + i);
  return kLargestRoot;
}

/// The running maximum of magnitudes. As integers, so that nan is larger than everything.
HWY_INLINE VI larger_magnitude(VI largest, V x) {
  return hn::Max(largest, hn::BitCast(DI(), hn::Abs(x)));
}
HWY_INLINE float scale_of(VI largest) {
  const DI di;
  return hn::GetLane(hn::BitCast(D(), hn::MaxOfLanes(di, largest)));
}

}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HWY_TARGET != HWY_SCALAR

#endif  // HALFTONE_KERNELS_MOMENTS_SIMD_IMPL_H_
