// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "halftone/kernels/common/highway_targets.h"
#include "halftone/kernels/optimizer/layer_summary_impl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/kernels/optimizer/layer_summary_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "halftone/kernels/common/convert_impl.h"

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
GradientPart summarize_gradient_simd(const void*, std::int64_t, KernelType, FloorBits) {
  return {};
}
UpdatePart summarize_update_simd(const UpdateRange&) { return {}; }
#else

// Eight lanes wherever there are so many: the order of the additions is part of the result.
using D8 = hn::CappedTag<float, 8>;
using DI8 = hn::RebindToSigned<D8>;
using Wide = hn::RepartitionToWide<D8>;
using VWide = hn::Vec<Wide>;

/// The sum of squares of vectors of fp32, in fp64.
class Squares {
 public:
  // Spelt out, since a generated constructor would not be compiled for the instruction set.
  HWY_INLINE Squares() : low_(hn::Zero(Wide())), high_(hn::Zero(Wide())) {}
  HWY_INLINE void add(hn::Vec<D8> value) {
    const auto low = hn::PromoteTo(Wide(), hn::LowerHalf(value));
    const auto high = hn::PromoteTo(Wide(), hn::UpperHalf(hn::Half<D8>(), value));
    low_ = hn::Add(low_, hn::Mul(low, low));
    high_ = hn::Add(high_, hn::Mul(high, high));
  }
  HWY_INLINE double total() const {
    return hn::GetLane(hn::SumOfLanes(Wide(), hn::Add(low_, high_)));
  }

 private:
  VWide low_, high_;
};

HWY_INLINE std::int64_t lanes8() { return static_cast<std::int64_t>(hn::Lanes(D8())); }

template <class Mask>
HWY_INLINE std::int64_t count_of(Mask mask) {
  return static_cast<std::int64_t>(hn::CountTrue(D8(), mask));
}

template <class Element>
GradientPart gradient_part(const void* elements, std::int64_t size, FloorBits floor) {
  const D8 d;
  const DI8 di;
  const auto* from = static_cast<const typename Element::Type*>(elements);
  const auto above_flushed = hn::Set(di, floor.flushed + 1);
  const auto normal = hn::Set(di, floor.normal);
  Squares squares;
  auto largest = hn::Zero(d);
  GradientPart part{};
  const std::int64_t step = lanes8();
  for (std::int64_t i = 0; i < size; i += step) {
    const auto value = load_some<Element>(d, from + i, std::min(size - i, step));
    const auto magnitude = hn::Abs(value);
    const auto bits = hn::BitCast(di, magnitude);
    const auto finite = hn::IsFinite(value);
    squares.add(value);
    largest = hn::Max(largest, hn::IfThenElseZero(finite, magnitude));
    part.zeros += count_of(hn::RebindMask(d, hn::Eq(bits, hn::Zero(di))));
    part.flushed += count_of(hn::RebindMask(d, hn::Lt(bits, above_flushed)));
    part.subnormal += count_of(hn::RebindMask(d, hn::Lt(bits, normal)));
    part.non_finite += step - count_of(finite);
  }
  // Beyond the end stood zeros.
  const std::int64_t beyond = (step - size % step) % step;
  part.zeros -= beyond;
  part.flushed -= beyond;
  part.subnormal -= floor.normal > 0 ? beyond : 0;
  part.norm_squared = squares.total();
  part.largest = hn::GetLane(hn::MaxOfLanes(d, largest));
  return part;
}

GradientPart summarize_gradient_simd(const void* elements, std::int64_t size, KernelType type,
                                     FloorBits floor) {
  return with_element(
      type, [&](auto element) { return gradient_part<decltype(element)>(elements, size, floor); });
}

template <class Element, class Gradient>
UpdatePart update_part(const UpdateRange& range) {
  const D8 d;
  const auto* before = static_cast<const typename Element::Type*>(range.before);
  const auto* after = static_cast<const typename Element::Type*>(range.after);
  const auto* gradient = static_cast<const typename Gradient::Type*>(range.gradient);
  Squares changes, weights;
  UpdatePart part{};
  const std::int64_t step = lanes8();
  for (std::int64_t i = 0; i < range.size; i += step) {
    const std::int64_t count = std::min(range.size - i, step);
    const auto old_value = load_some<Element>(d, before + i, count);
    const auto new_value = load_some<Element>(d, after + i, count);
    const auto live = hn::Ne(load_some<Gradient>(d, gradient + i, count), hn::Zero(d));
    changes.add(hn::Sub(new_value, old_value));
    weights.add(old_value);
    part.with_gradient += count_of(live);
    part.unchanged += count_of(hn::And(live, hn::Eq(new_value, old_value)));
  }
  part.change_squared = changes.total();
  part.weight_squared = weights.total();
  return part;
}

UpdatePart summarize_update_simd(const UpdateRange& range) {
  return with_element(range.type, [&](auto element) {
    using Element = decltype(element);
    if (range.gradient_type == KernelType::kFloat) return update_part<Element, Float>(range);
    return update_part<Element, Element>(range);
  });
}

#endif  // HWY_TARGET == HWY_SCALAR
}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(summarize_gradient_simd);
HWY_EXPORT(summarize_update_simd);

GradientPart summarize_gradient(const void* elements, std::int64_t size, KernelType type,
                                FloorBits floor) {
  return HWY_DYNAMIC_DISPATCH(summarize_gradient_simd)(elements, size, type, floor);
}

UpdatePart summarize_update(const UpdateRange& range) {
  return HWY_DYNAMIC_DISPATCH(summarize_update_simd)(range);
}

}  // namespace halftone
#endif  // HWY_ONCE
