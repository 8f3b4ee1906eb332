// SPDX-License-Identifier: Apache-2.0
// A row of logits is read twice: for its maximum and for the exponentials, which wait in fp32, in a
// cache, until their sum is known and the gradient can overwrite the row.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "halftone/kernels/common/highway_targets.h"
#include "halftone/kernels/fused/cross_entropy_impl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/kernels/fused/cross_entropy_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "halftone/kernels/common/convert_impl.h"
// After it, since both are included once for each instruction set.
#include <hwy/contrib/math/math-inl.h>

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
void cross_entropy_range_simd(const CrossEntropyRows&, std::int64_t, std::int64_t) {}
#else

// A row as vectors; what the last one lacks is -inf, whose exponential is 0.
template <class Element>
class Row {
 public:
  using T = typename Element::Type;

  HWY_INLINE Row(T* data, std::int64_t size) : data_(data), size_(size) {
    const D d;
    whole_ = size - size % lanes();
    if (whole_ == size) return;
    Element::store(hn::Set(d, -std::numeric_limits<float>::infinity()), d, rest_);
    std::memcpy(rest_, data + whole_, static_cast<std::size_t>(size - whole_) * sizeof(T));
  }

  // body(vector, index of its first element) for all of it, in order.
  template <class Body>
  HWY_INLINE void read(std::int64_t begin, std::int64_t end, const Body& body) const {
    const D d;
    for (std::int64_t i = begin; i < std::min(end, whole_); i += lanes())
      body(Element::load(d, data_ + i), i);
    if (end > whole_) body(Element::load(d, rest_), whole_);
  }

  // By the vectors of body(index of the first element).
  template <class Body>
  HWY_INLINE void overwrite(const Body& body) {
    const D d;
    for (std::int64_t i = 0; i < whole_; i += lanes()) Element::store(body(i), d, data_ + i);
    if (whole_ == size_) return;
    Element::store(body(whole_), d, rest_);
    std::memcpy(data_ + whole_, rest_, static_cast<std::size_t>(size_ - whole_) * sizeof(T));
  }

  HWY_INLINE float at(std::int64_t i) const {
    const hn::CappedTag<float, 1> d;
    return hn::GetLane(Element::load(d, data_ + i));
  }
  HWY_INLINE void set(std::int64_t i, float value) {
    const hn::CappedTag<float, 1> d;
    Element::store(hn::Set(d, value), d, data_ + i);
  }

 private:
  T* data_;
  std::int64_t size_;
  std::int64_t whole_;
  T rest_[HWY_MAX_BYTES / sizeof(float)] = {};
};

// The largest value; nan if there is a nan.
template <class Element>
HWY_INLINE float largest(const Row<Element>& row, std::int64_t size) {
  const D d;
  V top = hn::Set(d, -std::numeric_limits<float>::infinity());
  auto nan = hn::IsNaN(top);
  row.read(0, size, [&](V x, std::int64_t) HWY_ATTR {
    top = hn::Max(top, x);
    nan = hn::Or(nan, hn::IsNaN(x));
  });
  if (!hn::AllFalse(d, nan)) return std::numeric_limits<float>::quiet_NaN();
  return hn::GetLane(hn::MaxOfLanes(d, top));
}

// sum exp(x - top), at least 1: blocks in fp32, their sums in fp64. The terms go to `exponentials`,
// which has room for whole vectors.
template <class Element>
HWY_INLINE double sum_of_exponentials(const Row<Element>& row, std::int64_t size, float top,
                                      float* exponentials) {
  constexpr std::int64_t kBlock = 1024;
  const D d;
  const V shift = hn::Set(d, top);
  double sum = 0;
  for (std::int64_t begin = 0; begin < size; begin += kBlock) {
    V part = hn::Zero(d);
    row.read(begin, std::min(begin + kBlock, size), [&](V x, std::int64_t i) HWY_ATTR {
      const V exponential = hn::Exp(d, hn::Sub(x, shift));
      hn::StoreU(exponential, d, exponentials + i);
      part = hn::Add(part, exponential);
    });
    sum += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, part)));
  }
  return sum;
}

template <class Element>
HWY_INLINE void fill(Row<Element>& row, float value) {
  const V values = hn::Set(D(), value);
  row.overwrite([&](std::int64_t) HWY_ATTR { return values; });
}

template <class Element>
void cross_entropy_row(const CrossEntropyRows& rows, std::int64_t r, float* exponentials) {
  using T = typename Element::Type;
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  Row<Element> row(static_cast<T*>(rows.logits) + r * rows.classes, rows.classes);
  const float weight = rows.weights[r];
  const float top = largest(row, rows.classes);
  rows.losses[r] = 0.0F;
  // The definition subtracts inf from inf there, whatever the weight.
  const bool defined = std::isfinite(top);
  if (weight == 0.0F || !defined) {
    if (weight != 0.0F) rows.losses[r] = kNan;
    if (rows.write_gradient) fill(row, defined ? 0.0F : kNan);
    return;
  }
  const double sum = sum_of_exponentials(row, rows.classes, top, exponentials);
  const float at_target = row.at(rows.targets[r]);
  rows.losses[r] = static_cast<float>(std::log(sum) + (static_cast<double>(top) - at_target));
  if (!rows.write_gradient) return;
  const D d;
  const V factor = hn::Set(d, static_cast<float>(weight / sum));
  row.overwrite([&](std::int64_t i)
                    HWY_ATTR { return hn::Mul(hn::LoadU(d, exponentials + i), factor); });
  const double p = std::exp(static_cast<double>(at_target) - top) / sum;
  row.set(rows.targets[r], static_cast<float>((p - 1.0) * weight));
}

template <class Element>
void cross_entropy_rows(const CrossEntropyRows& rows, std::int64_t begin, std::int64_t end) {
  std::vector<float> exponentials(static_cast<std::size_t>(rows.classes + lanes()));
  for (std::int64_t r = begin; r < end; ++r)
    cross_entropy_row<Element>(rows, r, exponentials.data());
}

void cross_entropy_range_simd(const CrossEntropyRows& rows, std::int64_t begin, std::int64_t end) {
  return with_element(rows.type, [&](auto element) {
    return cross_entropy_rows<decltype(element)>(rows, begin, end);
  });
}

#endif  // HWY_TARGET == HWY_SCALAR
}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(cross_entropy_range_simd);

void cross_entropy_range(const CrossEntropyRows& rows, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(cross_entropy_range_simd)(rows, begin, end);
}

}  // namespace halftone
#endif
