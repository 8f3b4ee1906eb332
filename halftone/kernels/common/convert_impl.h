// SPDX-License-Identifier: Apache-2.0
// Loads and stores of the three element types as fp32 vectors. Included by the *_cpu.cpp files
// after <hwy/highway.h>, once for each instruction set: hence the toggling guard.
#if defined(HALFTONE_KERNELS_CONVERT_IMPL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HALFTONE_KERNELS_CONVERT_IMPL_H_
#undef HALFTONE_KERNELS_CONVERT_IMPL_H_
#else
#define HALFTONE_KERNELS_CONVERT_IMPL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>
#include <cstring>

#include "halftone/kernels/common/simd_impl.h"

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

/// Floats in a vector.
HWY_INLINE std::int64_t lanes() { return static_cast<std::int64_t>(hn::Lanes(D())); }

struct Float {
  using Type = float;
  template <class D>
  static HWY_INLINE hn::Vec<D> load(D d, const Type* from) {
    return hn::LoadU(d, from);
  }
  template <class D>
  static HWY_INLINE void store(hn::Vec<D> value, D d, Type* to) {
    hn::StoreU(value, d, to);
  }
  // The result of a store and a load.
  template <class D>
  static HWY_INLINE hn::Vec<D> rounded(D, hn::Vec<D> value) {
    return value;
  }
};

struct Half {
  using Type = std::uint16_t;
  template <class D>
  static HWY_INLINE hn::Vec<D> load(D d, const Type* from) {
    const hn::Rebind<std::uint16_t, D> d16;
    const hn::Rebind<hwy::float16_t, D> dh;
    return hn::PromoteTo(d, hn::BitCast(dh, hn::LoadU(d16, from)));
  }
  template <class D>
  static HWY_INLINE void store(hn::Vec<D> value, D, Type* to) {
    const hn::Rebind<std::uint16_t, D> d16;
    const hn::Rebind<hwy::float16_t, D> dh;
    hn::StoreU(hn::BitCast(d16, hn::DemoteTo(dh, value)), d16, to);
  }
  template <class D>
  static HWY_INLINE hn::Vec<D> rounded(D d, hn::Vec<D> value) {
    return hn::PromoteTo(d, hn::DemoteTo(hn::Rebind<hwy::float16_t, D>(), value));
  }
};

struct BFloat16 {
  using Type = std::uint16_t;
  template <class D>
  static HWY_INLINE hn::Vec<D> load(D d, const Type* from) {
    const hn::Rebind<std::uint16_t, D> d16;
    const hn::RebindToUnsigned<D> du;
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, from))));
  }
  // To nearest, ties to even; NaN becomes the quiet NaN 0x7FC0, as in LibTorch.
  template <class D>
  static HWY_INLINE void store(hn::Vec<D> value, D d, Type* to) {
    store_high(rounded_bits(d, value), d, to);
  }
  template <class D>
  static HWY_INLINE hn::Vec<D> rounded(D d, hn::Vec<D> value) {
    const hn::RebindToUnsigned<D> du;
    return hn::BitCast(d, hn::And(rounded_bits(d, value), hn::Set(du, 0xFFFF0000U)));
  }
  // Up with the probability of the distance from below; what is not finite stays as it is.
  template <class D>
  static HWY_INLINE void store_stochastic(hn::Vec<D> value, hn::Vec<hn::RebindToUnsigned<D>> random,
                                          D d, Type* to) {
    const hn::RebindToUnsigned<D> du;
    const auto bits = hn::BitCast(du, value);
    const auto rounded = hn::Add(bits, hn::ShiftRight<16>(random));
    const auto nan = hn::RebindMask(du, hn::IsNaN(value));
    const auto finite = hn::RebindMask(du, hn::IsFinite(value));
    const auto special = hn::IfThenElse(nan, hn::Set(du, 0x7FC00000U), bits);
    store_high(hn::IfThenElse(finite, rounded, special), d, to);
  }

 private:
  // The high half is the result; the low half is not cleared.
  template <class D>
  static HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> rounded_bits(D, hn::Vec<D> value) {
    const hn::RebindToUnsigned<D> du;
    const auto bits = hn::BitCast(du, value);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1U));
    const auto up = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFU)));
    const auto nan = hn::RebindMask(du, hn::IsNaN(value));
    return hn::IfThenElse(nan, hn::Set(du, 0x7FC00000U), up);
  }
  template <class D>
  static HWY_INLINE void store_high(hn::Vec<hn::RebindToUnsigned<D>> bits, D, Type* to) {
    const hn::Rebind<std::uint16_t, D> d16;
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(hn::RebindToSigned<D>(), hn::ShiftRight<16>(bits))),
               d16, to);
  }
};

/// Calls `loop` with the element type that `type` names.
template <class Loop>
auto with_element(KernelType type, const Loop& loop) {
  switch (type) {
    case KernelType::kBFloat16:
      return loop(BFloat16());
    case KernelType::kHalf:
      return loop(Half());
    case KernelType::kFloat:
      break;
  }
  return loop(Float());
}

/// Up to a vector; 0 beyond `count`.
template <class Element, class D>
HWY_INLINE hn::Vec<D> load_some(D d, const typename Element::Type* from, std::int64_t count) {
  if (count >= static_cast<std::int64_t>(hn::Lanes(d))) return Element::load(d, from);
  typename Element::Type rest[HWY_MAX_BYTES / sizeof(float)] = {};
  std::memcpy(rest, from, static_cast<std::size_t>(count) * sizeof(*rest));
  return Element::load(d, rest);
}

/// The first `count` of a vector, or all.
template <class Element, class D>
HWY_INLINE void store_some(hn::Vec<D> value, D d, typename Element::Type* to, std::int64_t count) {
  if (count >= static_cast<std::int64_t>(hn::Lanes(d))) return Element::store(value, d, to);
  typename Element::Type rest[HWY_MAX_BYTES / sizeof(float)];
  Element::store(value, d, rest);
  std::memcpy(to, rest, static_cast<std::size_t>(count) * sizeof(*rest));
}

}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HALFTONE_KERNELS_CONVERT_IMPL_H_
