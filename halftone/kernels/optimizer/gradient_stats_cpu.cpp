// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "halftone/kernels/common/highway_targets.h"
#include "halftone/kernels/optimizer/adamw_impl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/kernels/optimizer/gradient_stats_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "halftone/kernels/common/convert_impl.h"

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
SquareSum sum_of_squares_simd(const void*, std::int64_t, KernelType) { return {}; }
#else

// Eight lanes on every machine: the order of the additions is part of the result.
using D8 = hn::CappedTag<float, 8>;

template <class Element>
class Accumulator {
 public:
  // Spelt out, since a generated constructor would not be compiled for the instruction set.
  HWY_INLINE Accumulator() : low_(hn::Zero(dd_)), high_(hn::Zero(dd_)) {}
  HWY_INLINE void add(const typename Element::Type* from) {
    const D8 d;
    const auto value = Element::load(d, from);
    const auto low = hn::PromoteTo(dd_, hn::LowerHalf(value));
    const auto high = hn::PromoteTo(dd_, hn::UpperHalf(hn::Half<D8>(), value));
    low_ = hn::Add(low_, hn::Mul(low, low));
    high_ = hn::Add(high_, hn::Mul(high, high));
    non_finite_ += static_cast<std::int64_t>(hn::CountTrue(d, hn::Not(hn::IsFinite(value))));
  }
  HWY_INLINE SquareSum total() const {
    return {hn::GetLane(hn::SumOfLanes(dd_, hn::Add(low_, high_))), non_finite_};
  }

 private:
  hn::RepartitionToWide<D8> dd_;
  hn::Vec<hn::RepartitionToWide<D8> > low_;
  hn::Vec<hn::RepartitionToWide<D8> > high_;
  std::int64_t non_finite_ = 0;
};

template <class Element>
SquareSum sum_squares(const void* elements, std::int64_t size) {
  using T = typename Element::Type;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(D8()));
  const auto* from = static_cast<const T*>(elements);
  Accumulator<Element> even;
  Accumulator<Element> odd;
  std::int64_t i = 0;
  for (; i + 2 * lanes <= size; i += 2 * lanes) {
    even.add(from + i);
    odd.add(from + i + lanes);
  }
  T rest[16] = {};
  if (i < size) {
    std::memcpy(rest, from + i, static_cast<std::size_t>(size - i) * sizeof(T));
    even.add(rest);
    odd.add(rest + lanes);
  }
  const SquareSum a = even.total();
  const SquareSum b = odd.total();
  return {a.sum + b.sum, a.non_finite + b.non_finite};
}

SquareSum sum_of_squares_simd(const void* elements, std::int64_t size, KernelType type) {
  return with_element(type,
                      [&](auto element) { return sum_squares<decltype(element)>(elements, size); });
}

#endif  // HWY_TARGET == HWY_SCALAR
}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(sum_of_squares_simd);

SquareSum sum_of_squares(const void* elements, std::int64_t size, KernelType type) {
  return HWY_DYNAMIC_DISPATCH(sum_of_squares_simd)(elements, size, type);
}

}  // namespace halftone
#endif
