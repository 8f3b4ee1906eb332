// SPDX-License-Identifier: Apache-2.0
// Compiled once for each instruction set; the best one of the machine is chosen at run time.
#include <algorithm>
#include <cmath>
#include <limits>

#include "halftone/kernels/attention/rotary_attention_bf16_impl.h"
#include "halftone/kernels/common/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/kernels/attention/rotary_attention_bf16_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// After highway.h.
#include <hwy/contrib/math/math-inl.h>

#include "halftone/kernels/common/convert_impl.h"

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
void softmax_scores16_simd(const ScoreBlockBf16&, const float*, std::uint16_t*, float*, float*,
                           std::int64_t) {}
void softmax_grad16_simd(const ScoreBlockBf16&, const float*, std::int64_t, float*, float*,
                         const SoftmaxGrads16&) {}
void scale_rows_simd(float*, std::int64_t, std::int64_t, const float*) {}
void join_rows_simd(const std::uint16_t*, std::int64_t, std::int64_t, std::uint32_t*) {}
void split_rows_simd(const std::uint32_t*, std::int64_t, std::int64_t, std::uint16_t*) {}
#else

using D32 = hn::RebindToUnsigned<D>;
using D16 = hn::Rebind<std::uint16_t, D>;
using Words = hn::Vec<D32>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// `value` in the lanes that stand for one of `count` elements, else `other`.
HWY_INLINE V some_lanes(V value, std::int64_t count, V other) {
  if (count >= lanes()) return value;
  return hn::IfThenElse(hn::FirstN(D(), static_cast<std::size_t>(count)), value, other);
}

HWY_INLINE std::int64_t whole_vectors(std::int64_t count) {
  return (count + lanes() - 1) / lanes() * lanes();
}

// nan where one is nan or inf.
float largest_score(const float* scores, std::int64_t count) {
  const D d;
  const V lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  V most = lowest;
  auto any_nan = hn::FirstN(d, 0);
  for (std::int64_t i = 0; i < count; i += lanes()) {
    const V value = some_lanes(hn::LoadU(d, scores + i), count - i, lowest);
    most = hn::Max(most, value);
    any_nan = hn::Or(any_nan, hn::IsNaN(value));
  }
  const float largest = hn::GetLane(hn::MaxOfLanes(d, most));
  return hn::AllFalse(d, any_nan) && std::isfinite(largest) ? largest : kNan;
}

// Returns the sum before rounding.
float exponentials(const float* scores, std::int64_t count, float scale, float shift,
                   std::uint16_t* to) {
  const D d;
  const V factor = hn::Set(d, scale), offset = hn::Set(d, shift);
  V sums = hn::Zero(d);
  for (std::int64_t i = 0; i < count; i += lanes()) {
    const V exponent = hn::MulSub(hn::LoadU(d, scores + i), factor, offset);
    const V value = some_lanes(hn::Exp(d, exponent), count - i, hn::Zero(d));
    sums = hn::Add(sums, value);
    BFloat16::store(value, d, to + i);
  }
  return hn::GetLane(hn::SumOfLanes(d, sums));
}

void softmax_scores16_simd(const ScoreBlockBf16& block, const float* scores, std::uint16_t* weights,
                           float* inverse_sums, float* log_sums, std::int64_t log_stride) {
  for (std::int64_t q = 0; q < block.heads * block.rows; ++q) {
    const std::int64_t h = q / block.rows, r = q % block.rows;
    const std::int64_t seen = r < block.queries ? block.first + r + 1 : 0;
    std::uint16_t* to = weights + q * block.keys;
    inverse_sums[q] = 0.0F;
    if (seen > 0) {
      const float* from = scores + q * block.keys;
      const float shift = block.scale * largest_score(from, seen);
      // Highway's exponential of nan is 0: such a row is marked by hand.
      const float sum = exponentials(from, seen, block.scale, shift, to);
      inverse_sums[q] = std::isnan(shift) ? kNan : 1.0F / sum;
      log_sums[h * log_stride + r] = shift + std::log(sum);
    }
    std::fill(to + whole_vectors(seen), to + block.keys, std::uint16_t{0});
  }
}

// scores -> weights in place; returns sum(w d_w). Beyond `seen` both become 0.
float weigh_row(const ScoreBlockBf16& block, std::int64_t seen, float log_sum, float* scores,
                float* d_weights) {
  const D d;
  const V factor = hn::Set(d, block.scale), offset = hn::Set(d, log_sum);
  V dot = hn::Zero(d);
  for (std::int64_t i = 0; i < seen; i += lanes()) {
    V weight = hn::Exp(d, hn::MulSub(hn::LoadU(d, scores + i), factor, offset));
    if (std::isnan(log_sum)) weight = offset;
    weight = some_lanes(weight, seen - i, hn::Zero(d));
    const V change = some_lanes(hn::LoadU(d, d_weights + i), seen - i, hn::Zero(d));
    hn::StoreU(weight, d, scores + i);
    hn::StoreU(change, d, d_weights + i);
    dot = hn::MulAdd(weight, change, dot);
  }
  std::fill(scores + whole_vectors(seen), scores + block.keys, 0.0F);
  std::fill(d_weights + whole_vectors(seen), d_weights + block.keys, 0.0F);
  return hn::GetLane(hn::SumOfLanes(d, dot));
}

// bf16 in the high halves, the low ones are 0.
HWY_INLINE Words rounded_words(V value) {
  return hn::BitCast(D32(), BFloat16::rounded(D(), value));
}

HWY_INLINE Words joined(Words low, Words high) { return hn::Or(hn::ShiftRight<16>(low), high); }

HWY_INLINE void store_low(Words words, std::uint16_t* to) {
  const D16 d16;
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(hn::RebindToSigned<D32>(), words)), d16, to);
}

HWY_INLINE Words score_gradients(V weights, const float* d_weights, float mean, float scale) {
  const D d;
  const V change = hn::Sub(hn::LoadU(d, d_weights), hn::Set(d, mean));
  return rounded_words(hn::Mul(hn::Mul(weights, hn::Set(d, scale)), change));
}

void softmax_grad16_simd(const ScoreBlockBf16& block, const float* log_sums,
                         std::int64_t log_stride, float* scores, float* d_weights,
                         const SoftmaxGrads16& to) {
  const D d;
  const D32 d32;
  const std::int64_t keys = block.keys;
  for (std::int64_t q = 0; q < block.heads * block.rows; q += 2) {
    float means[2];
    for (std::int64_t odd = 0; odd < 2; ++odd) {
      const std::int64_t h = q / block.rows, r = q % block.rows + odd, row = (q + odd) * keys;
      const bool real = r < block.queries;
      means[odd] =
          weigh_row(block, real ? block.first + r + 1 : 0,
                    real ? log_sums[h * log_stride + r] : 0.0F, scores + row, d_weights + row);
    }
    for (std::int64_t i = 0; i < keys; i += lanes()) {
      const std::int64_t above = q * keys + i, below = above + keys, pair = q / 2 * keys + i;
      const V first = hn::LoadU(d, scores + above), second = hn::LoadU(d, scores + below);
      hn::StoreU(joined(rounded_words(first), rounded_words(second)), d32, to.weight_pairs + pair);
      const Words low = score_gradients(first, d_weights + above, means[0], block.scale);
      const Words high = score_gradients(second, d_weights + below, means[1], block.scale);
      store_low(hn::ShiftRight<16>(low), to.d_scores + above);
      store_low(hn::ShiftRight<16>(high), to.d_scores + below);
      hn::StoreU(joined(low, high), d32, to.d_score_pairs + pair);
    }
  }
}

void scale_rows_simd(float* rows, std::int64_t count, std::int64_t size, const float* factors) {
  const D d;
  for (std::int64_t r = 0; r < count; ++r, rows += size) {
    const V factor = hn::Set(d, factors[r]);
    for (std::int64_t i = 0; i < size; i += lanes())
      store_some<Float>(hn::Mul(load_some<Float>(d, rows + i, size - i), factor), d, rows + i,
                        size - i);
  }
}

void join_rows_simd(const std::uint16_t* from, std::int64_t pairs, std::int64_t size,
                    std::uint32_t* to) {
  const D32 d32;
  const D16 d16;
  for (std::int64_t p = 0; p < pairs; ++p, from += 2 * size, to += size) {
    std::int64_t i = 0;
    for (; i + lanes() <= size; i += lanes()) {
      const Words low = hn::PromoteTo(d32, hn::LoadU(d16, from + i));
      const Words high = hn::PromoteTo(d32, hn::LoadU(d16, from + size + i));
      hn::StoreU(hn::Or(low, hn::ShiftLeft<16>(high)), d32, to + i);
    }
    for (; i < size; ++i) to[i] = from[i] | std::uint32_t{from[size + i]} << 16;
  }
}

void split_rows_simd(const std::uint32_t* from, std::int64_t pairs, std::int64_t size,
                     std::uint16_t* to) {
  const D32 d32;
  for (std::int64_t p = 0; p < pairs; ++p, from += size, to += 2 * size) {
    std::int64_t i = 0;
    for (; i + lanes() <= size; i += lanes()) {
      const Words words = hn::LoadU(d32, from + i);
      store_low(hn::And(words, hn::Set(d32, 0xFFFFU)), to + i);
      store_low(hn::ShiftRight<16>(words), to + size + i);
    }
    for (; i < size; ++i) {
      to[i] = static_cast<std::uint16_t>(from[i] & 0xFFFFU);
      to[size + i] = static_cast<std::uint16_t>(from[i] >> 16);
    }
  }
}

#endif  // HWY_TARGET == HWY_SCALAR
}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(softmax_scores16_simd);
HWY_EXPORT(softmax_grad16_simd);
HWY_EXPORT(scale_rows_simd);
HWY_EXPORT(join_rows_simd);
HWY_EXPORT(split_rows_simd);

void softmax_scores16(const ScoreBlockBf16& block, const float* scores, std::uint16_t* weights,
                      float* inverse_sums, float* log_sums, std::int64_t log_stride) {
  HWY_DYNAMIC_DISPATCH(softmax_scores16_simd)
  (block, scores, weights, inverse_sums, log_sums, log_stride);
}

void softmax_grad16(const ScoreBlockBf16& block, const float* log_sums, std::int64_t log_stride,
                    float* scores, float* d_weights, const SoftmaxGrads16& to) {
  HWY_DYNAMIC_DISPATCH(softmax_grad16_simd)(block, log_sums, log_stride, scores, d_weights, to);
}

void scale_rows(float* rows, std::int64_t count, std::int64_t size, const float* factors) {
  HWY_DYNAMIC_DISPATCH(scale_rows_simd)(rows, count, size, factors);
}

void join_rows(const std::uint16_t* from, std::int64_t pairs, std::int64_t size,
               std::uint32_t* to) {
  HWY_DYNAMIC_DISPATCH(join_rows_simd)(from, pairs, size, to);
}

void split_rows(const std::uint32_t* from, std::int64_t pairs, std::int64_t size,
                std::uint16_t* to) {
  HWY_DYNAMIC_DISPATCH(split_rows_simd)(from, pairs, size, to);
}

}  // namespace halftone
#endif
