// SPDX-License-Identifier: Apache-2.0
// Loops that do nothing but what they measure, compiled once for each instruction set.
#include "halftone/kernels/common/highway_targets.h"
#include "halftone/machine/speed_impl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/machine/speed_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

double multiply_adds_simd(std::int64_t rounds, float* sink) {
  const hn::ScalableTag<float> d;
  using V = hn::Vec<decltype(d)>;
  const V factor = hn::Set(d, 0.999F);
  const V term = hn::Set(d, 0.001F);
  // Different starting points: equal chains would be computed once.
  const auto start = [&](int chain) { return hn::Set(d, sink[chain]); };
  V a0 = start(0), a1 = start(1), a2 = start(2), a3 = start(3), a4 = start(4), a5 = start(5);
  V a6 = start(6), a7 = start(7), a8 = start(8), a9 = start(9), a10 = start(10), a11 = start(11);
  for (std::int64_t i = 0; i < rounds; ++i) {
    a0 = hn::MulAdd(a0, factor, term);
    a1 = hn::MulAdd(a1, factor, term);
    a2 = hn::MulAdd(a2, factor, term);
    a3 = hn::MulAdd(a3, factor, term);
    a4 = hn::MulAdd(a4, factor, term);
    a5 = hn::MulAdd(a5, factor, term);
    a6 = hn::MulAdd(a6, factor, term);
    a7 = hn::MulAdd(a7, factor, term);
    a8 = hn::MulAdd(a8, factor, term);
    a9 = hn::MulAdd(a9, factor, term);
    a10 = hn::MulAdd(a10, factor, term);
    a11 = hn::MulAdd(a11, factor, term);
  }
  const V sum = hn::Add(
      hn::Add(hn::Add(hn::Add(a0, a1), hn::Add(a2, a3)), hn::Add(hn::Add(a4, a5), hn::Add(a6, a7))),
      hn::Add(hn::Add(a8, a9), hn::Add(a10, a11)));
  sink[0] = hn::GetLane(hn::SumOfLanes(d, sum));
  return static_cast<double>(rounds) * kFmaChains * 2.0 * static_cast<double>(hn::Lanes(d));
}

void triad_simd(float* a, const float* b, const float* c, std::int64_t count) {
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto factor = hn::Set(d, 3.0F);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    hn::StoreU(hn::MulAdd(factor, hn::LoadU(d, c + i), hn::LoadU(d, b + i)), d, a + i);
  for (; i < count; ++i) a[i] = b[i] + 3.0F * c[i];
}

const char* target_name() { return hwy::TargetName(HWY_TARGET); }

}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(multiply_adds_simd);
HWY_EXPORT(triad_simd);
HWY_EXPORT(target_name);

double multiply_adds(std::int64_t rounds, float* sink) {
  return HWY_DYNAMIC_DISPATCH(multiply_adds_simd)(rounds, sink);
}

void triad(float* a, const float* b, const float* c, std::int64_t count) {
  HWY_DYNAMIC_DISPATCH(triad_simd)(a, b, c, count);
}

const char* dispatched_target() { return HWY_DYNAMIC_DISPATCH(target_name)(); }

}  // namespace halftone
#endif  // HWY_ONCE
