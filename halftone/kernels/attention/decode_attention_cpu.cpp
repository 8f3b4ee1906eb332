// SPDX-License-Identifier: Apache-2.0
// Compiled once for each instruction set; the best one of the machine is chosen at run time.
#include <algorithm>
#include <limits>

#include "halftone/kernels/attention/decode_attention_impl.h"
#include "halftone/kernels/common/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/kernels/attention/decode_attention_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// After highway.h.
#include <hwy/contrib/math/math-inl.h>

#include "halftone/kernels/common/convert_impl.h"

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

/// Up to a vector of scores; -inf beyond `count`.
HWY_INLINE V load_scores(const float* from, std::int64_t count) {
  const D d;
  const V none = hn::Set(d, -std::numeric_limits<float>::infinity());
  if (count >= lanes()) return hn::LoadU(d, from);
  return hn::IfThenElse(hn::FirstN(d, static_cast<std::size_t>(count)),
                        load_some<Float>(d, from, count), none);
}

/// Scores become exp(scale (score - largest)); returns their sum, which is nan if one of them is.
float exponentials(float* scores, std::int64_t steps, float scale) {
  const D d;
  V largest = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (std::int64_t s = 0; s < steps; s += lanes())
    largest = hn::Max(largest, load_scores(scores + s, steps - s));
  largest = hn::MaxOfLanes(d, largest);
  V sum = hn::Zero(d);
  for (std::int64_t s = 0; s < steps; s += lanes()) {
    const V below =
        hn::Mul(hn::Sub(load_scores(scores + s, steps - s), largest), hn::Set(d, scale));
    // Highway's Exp takes nan for a very small number.
    V power = hn::IfThenElse(hn::IsNaN(below), below, hn::Exp(d, below));
    if (steps - s < lanes())
      power = hn::IfThenElseZero(hn::FirstN(d, static_cast<std::size_t>(steps - s)), power);
    store_some<Float>(power, d, scores + s, steps - s);
    sum = hn::Add(sum, power);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

/// One vector of the result of kQueries queries, which read the values together.
template <class Element, int kQueries>
HWY_INLINE void mix(const DecodeGroup& group, const float* sums, std::int64_t query,
                    std::int64_t column, typename Element::Type* out) {
  const D d;
  const std::int64_t count = std::min(lanes(), group.size - column);
  const auto* values = static_cast<const typename Element::Type*>(group.values) + column;
  const float* weights = group.scores + query * group.steps;
  V totals[kQueries];
  for (V& total : totals) total = hn::Zero(d);
  for (std::int64_t s = 0; s < group.steps; ++s) {
    const V value = load_some<Element>(d, values + s * group.stride, count);
    for (int q = 0; q < kQueries; ++q)
      totals[q] = hn::MulAdd(value, hn::Set(d, weights[q * group.steps + s]), totals[q]);
  }
  for (int q = 0; q < kQueries; ++q)
    store_some<Element>(hn::Div(totals[q], hn::Set(d, sums[q])), d,
                        out + (query + q) * group.size + column, count);
}

template <class Element>
void mix_all(const DecodeGroup& group, typename Element::Type* out) {
  constexpr int kTogether = 4;
  for (std::int64_t query = 0; query < group.queries;) {
    const bool many = group.queries - query >= kTogether;
    float sums[kTogether];
    for (std::int64_t q = 0; q < (many ? kTogether : 1); ++q)
      sums[q] = exponentials(group.scores + (query + q) * group.steps, group.steps, group.scale);
    for (std::int64_t column = 0; column < group.size; column += lanes()) {
      if (many) {
        mix<Element, kTogether>(group, sums, query, column, out);
      } else {
        mix<Element, 1>(group, sums, query, column, out);
      }
    }
    query += many ? kTogether : 1;
  }
}

}  // namespace

void mix_values_simd(const DecodeGroup& group, void* out) {
  return with_element(group.type, [&](auto element) {
    return mix_all<decltype(element)>(group, static_cast<typename decltype(element)::Type*>(out));
  });
}

}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(mix_values_simd);

void mix_values(const DecodeGroup& group, void* out) {
  HWY_DYNAMIC_DISPATCH(mix_values_simd)(group, out);
}

}  // namespace halftone
#endif
