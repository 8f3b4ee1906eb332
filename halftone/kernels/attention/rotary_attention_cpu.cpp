// SPDX-License-Identifier: Apache-2.0
// Compiled once for each instruction set; the best one of the machine is chosen at run time.
#include <algorithm>
#include <cmath>
#include <limits>

#include "halftone/kernels/attention/rotary_attention_impl.h"
#include "halftone/kernels/common/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/kernels/attention/rotary_attention_cpu.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// After highway.h.
#include <hwy/contrib/math/math-inl.h>

#include "halftone/kernels/common/convert_impl.h"

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
void load_head_simd(const HeadRows&, const void*, float*) {}
void load_head16_simd(const HeadRows&, const std::uint16_t*, std::uint16_t*) {}
void store_head_simd(const HeadRows&, const float*, void*) {}
void softmax_scores_simd(const ScoreBlock&, float*, float*, std::int64_t) {}
void recompute_weights_simd(const ScoreBlock&, const float*, std::int64_t, float*) {}
void softmax_grad_simd(const ScoreBlock&, const float*, float*) {}
#else

// (a + jb) (c + js), or with kBack (a + jb) (c - js), for pairs side by side.
template <bool kBack>
HWY_INLINE V rotate(V pairs, V rotation) {
  const D d;
  const V cosine = hn::DupEven(rotation);
  const V sine = hn::DupOdd(rotation);
  const V straight = hn::Mul(pairs, cosine);
  const V crossed = hn::Mul(hn::Reverse2(d, pairs), sine);
  const V sum = hn::Add(straight, crossed), difference = hn::Sub(straight, crossed);
  return kBack ? hn::OddEven(difference, sum) : hn::OddEven(sum, difference);
}

// Positions lie too far apart for the processor to see what comes next.
constexpr std::int64_t kAhead = 8;

template <class Element, class Target>
void load_rows(const HeadRows& rows, const void* data, typename Target::Type* to) {
  const D d;
  const std::int64_t size = rows.size;
  for (std::int64_t p = 0; p < rows.positions; ++p) {
    const auto* from = static_cast<const typename Element::Type*>(data) + p * rows.stride;
    for (std::int64_t i = 0; i < size; i += lanes()) {
      hwy::Prefetch(from + kAhead * rows.stride + i);
      V value = load_some<Element>(d, from + i, size - i);
      if (rows.rotations != nullptr)
        value = Element::rounded(
            d, rotate<false>(value, load_some<Float>(d, rows.rotations + p * size + i, size - i)));
      store_some<Target>(value, d, to + p * size + i, size - i);
    }
  }
}

template <class Element>
void store_rows(const HeadRows& rows, const float* from, void* data) {
  const D d;
  const std::int64_t size = rows.size;
  for (std::int64_t p = 0; p < rows.positions; ++p) {
    auto* to = static_cast<typename Element::Type*>(data) + p * rows.stride;
    for (std::int64_t i = 0; i < size; i += lanes()) {
      V value = load_some<Float>(d, from + p * size + i, size - i);
      if (rows.rotations != nullptr)
        value = rotate<true>(value, load_some<Float>(d, rows.rotations + p * size + i, size - i));
      store_some<Element>(value, d, to + i, size - i);
    }
  }
}

void load_head_simd(const HeadRows& rows, const void* from, float* to) {
  return with_element(
      rows.type, [&](auto element) { return load_rows<decltype(element), Float>(rows, from, to); });
}

void load_head16_simd(const HeadRows& rows, const std::uint16_t* from, std::uint16_t* to) {
  load_rows<BFloat16, BFloat16>(rows, from, to);
}

void store_head_simd(const HeadRows& rows, const float* from, void* to) {
  return with_element(rows.type,
                      [&](auto element) { return store_rows<decltype(element)>(rows, from, to); });
}

void clear_rest(float* row, std::int64_t seen, std::int64_t stride) {
  std::fill(row + seen, row + stride, 0.0F);
}

// softmax(scale scores) of `count` scores; returns the logarithm of the exponentials' sum.
float softmax_row(float* scores, std::int64_t count, float scale) {
  const D d;
  V most = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto any_nan = hn::FirstN(d, 0);
  std::int64_t i = 0;
  for (; i + lanes() <= count; i += lanes()) {
    const V value = hn::LoadU(d, scores + i);
    most = hn::Max(most, value);
    any_nan = hn::Or(any_nan, hn::IsNaN(value));
  }
  float largest = hn::GetLane(hn::MaxOfLanes(d, most));
  bool broken = !hn::AllFalse(d, any_nan);
  for (std::int64_t j = i; j < count; ++j) {
    largest = std::max(largest, scores[j]);
    broken |= std::isnan(scores[j]);
  }
  // Highway's exponential of nan is 0: such a row is marked by hand.
  if (broken || !std::isfinite(largest)) largest = std::numeric_limits<float>::quiet_NaN();
  const V shift = hn::Set(d, largest * scale), factor = hn::Set(d, scale);
  V sums = hn::Zero(d);
  for (i = 0; i < count; i += lanes()) {
    const V exponent = hn::MulSub(load_some<Float>(d, scores + i, count - i), factor, shift);
    V value = hn::Exp(d, exponent);
    if (count - i < lanes())
      value = hn::IfThenElseZero(hn::FirstN(d, static_cast<std::size_t>(count - i)), value);
    sums = hn::Add(sums, value);
    store_some<Float>(value, d, scores + i, count - i);
  }
  const float sum = std::isnan(largest) ? largest : hn::GetLane(hn::SumOfLanes(d, sums));
  const V inverse = hn::Set(d, 1.0F / sum);
  for (i = 0; i < count; i += lanes())
    store_some<Float>(hn::Mul(load_some<Float>(d, scores + i, count - i), inverse), d, scores + i,
                      count - i);
  return largest * scale + std::log(sum);
}

void softmax_scores_simd(const ScoreBlock& block, float* scores, float* log_sums,
                         std::int64_t log_stride) {
  for (std::int64_t h = 0; h < block.heads; ++h) {
    for (std::int64_t r = 0; r < block.rows; ++r) {
      float* row = scores + (h * block.rows + r) * block.stride;
      const std::int64_t seen = block.first + r + 1;
      log_sums[h * log_stride + r] = softmax_row(row, seen, block.scale);
      clear_rest(row, seen, block.stride);
    }
  }
}

void recompute_weights_simd(const ScoreBlock& block, const float* log_sums, std::int64_t log_stride,
                            float* scores) {
  const D d;
  const V factor = hn::Set(d, block.scale);
  for (std::int64_t h = 0; h < block.heads; ++h) {
    for (std::int64_t r = 0; r < block.rows; ++r) {
      float* row = scores + (h * block.rows + r) * block.stride;
      const std::int64_t seen = block.first + r + 1;
      const float log_sum = log_sums[h * log_stride + r];
      const V shift = hn::Set(d, log_sum);
      for (std::int64_t i = 0; i < seen; i += lanes()) {
        const V value = load_some<Float>(d, row + i, seen - i);
        store_some<Float>(hn::Exp(d, hn::MulSub(value, factor, shift)), d, row + i, seen - i);
      }
      if (std::isnan(log_sum)) std::fill(row, row + seen, log_sum);
      clear_rest(row, seen, block.stride);
    }
  }
}

void softmax_grad_simd(const ScoreBlock& block, const float* weights, float* d_weights) {
  const D d;
  const V factor = hn::Set(d, block.scale);
  for (std::int64_t q = 0; q < block.heads * block.rows; ++q) {
    const float* w = weights + q * block.stride;
    float* g = d_weights + q * block.stride;
    const std::int64_t seen = block.first + q % block.rows + 1;
    V dot = hn::Zero(d);
    for (std::int64_t i = 0; i < seen; i += lanes())
      dot = hn::MulAdd(load_some<Float>(d, w + i, seen - i), load_some<Float>(d, g + i, seen - i),
                       dot);
    const V mean = hn::Set(d, hn::GetLane(hn::SumOfLanes(d, dot)));
    for (std::int64_t i = 0; i < seen; i += lanes()) {
      const V change = hn::Sub(load_some<Float>(d, g + i, seen - i), mean);
      const V weight = hn::Mul(load_some<Float>(d, w + i, seen - i), factor);
      store_some<Float>(hn::Mul(weight, change), d, g + i, seen - i);
    }
    clear_rest(g, seen, block.stride);
  }
}

#endif  // HWY_TARGET == HWY_SCALAR
}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(load_head_simd);
HWY_EXPORT(load_head16_simd);
HWY_EXPORT(store_head_simd);
HWY_EXPORT(softmax_scores_simd);
HWY_EXPORT(recompute_weights_simd);
HWY_EXPORT(softmax_grad_simd);

void load_head(const HeadRows& rows, const void* from, float* to) {
  HWY_DYNAMIC_DISPATCH(load_head_simd)(rows, from, to);
}

void load_head16(const HeadRows& rows, const std::uint16_t* from, std::uint16_t* to) {
  HWY_DYNAMIC_DISPATCH(load_head16_simd)(rows, from, to);
}

void store_head(const HeadRows& rows, const float* from, void* to) {
  HWY_DYNAMIC_DISPATCH(store_head_simd)(rows, from, to);
}

void softmax_scores(const ScoreBlock& block, float* scores, float* log_sums,
                    std::int64_t log_stride) {
  HWY_DYNAMIC_DISPATCH(softmax_scores_simd)(block, scores, log_sums, log_stride);
}

void recompute_weights(const ScoreBlock& block, const float* log_sums, std::int64_t log_stride,
                       float* scores) {
  HWY_DYNAMIC_DISPATCH(recompute_weights_simd)(block, log_sums, log_stride, scores);
}

void softmax_grad(const ScoreBlock& block, const float* weights, float* d_weights) {
  HWY_DYNAMIC_DISPATCH(softmax_grad_simd)(block, weights, d_weights);
}

}  // namespace halftone
#endif
