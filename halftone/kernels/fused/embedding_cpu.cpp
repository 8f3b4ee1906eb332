// SPDX-License-Identifier: Apache-2.0
// Compiled once for each instruction set; the best one of the machine is chosen at run time. Plain
// additions in the order of the rows: every instruction set gives the same bits.
#include <cstring>

#include "halftone/kernels/common/highway_targets.h"
#include "halftone/kernels/fused/embedding_impl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/kernels/fused/embedding_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "halftone/kernels/common/convert_impl.h"

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
void embedding_gradient_range_simd(const EmbeddingGradient&, std::int64_t, std::int64_t) {}
#else

// The rows of one id; at least one.
template <class T>
struct Group {
  const T* rows;
  std::int64_t dim;
  const std::int64_t* begin;
  const std::int64_t* end;
};

// Columns `column` .. of the sum, four vectors wide.
template <class Element, class T>
HWY_INLINE void sum_tile(const Group<T>& group, std::int64_t column, T* to) {
  const D d;
  V a = hn::Zero(d), b = a, c = a, e = a;
  for (const std::int64_t* row = group.begin; row != group.end; ++row) {
    const T* from = group.rows + *row * group.dim + column;
    a = hn::Add(a, Element::load(d, from));
    b = hn::Add(b, Element::load(d, from + lanes()));
    c = hn::Add(c, Element::load(d, from + 2 * lanes()));
    e = hn::Add(e, Element::load(d, from + 3 * lanes()));
  }
  Element::store(a, d, to + column);
  Element::store(b, d, to + column + lanes());
  Element::store(c, d, to + column + 2 * lanes());
  Element::store(e, d, to + column + 3 * lanes());
}

// Less than a tile, one column at a time.
template <class Element, class T>
HWY_INLINE void sum_column(const Group<T>& group, std::int64_t column, T* to) {
  const hn::CappedTag<float, 1> d;
  auto sum = hn::Zero(d);
  for (const std::int64_t* row = group.begin; row != group.end; ++row)
    sum = hn::Add(sum, Element::load(d, group.rows + *row * group.dim + column));
  Element::store(sum, d, to + column);
}

template <class Element>
void sum_groups(const EmbeddingGradient& gradient, std::int64_t begin, std::int64_t end) {
  using T = typename Element::Type;
  const auto tile = 4 * static_cast<std::int64_t>(hn::Lanes(D()));
  const std::int64_t dim = gradient.dim;
  for (std::int64_t id = begin; id < end; ++id) {
    T* to = static_cast<T*>(gradient.sums) + id * dim;
    const Group<T> group{static_cast<const T*>(gradient.rows), dim,
                         gradient.order + gradient.starts[id],
                         gradient.order + gradient.starts[id + 1]};
    if (group.begin == group.end) {
      std::memset(to, 0, static_cast<std::size_t>(dim) * sizeof(T));
      continue;
    }
    std::int64_t column = 0;
    for (; column + tile <= dim; column += tile) sum_tile<Element>(group, column, to);
    for (; column < dim; ++column) sum_column<Element>(group, column, to);
  }
}

void embedding_gradient_range_simd(const EmbeddingGradient& gradient, std::int64_t begin,
                                   std::int64_t end) {
  return with_element(gradient.type, [&](auto element) {
    return sum_groups<decltype(element)>(gradient, begin, end);
  });
}

#endif  // HWY_TARGET == HWY_SCALAR
}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(embedding_gradient_range_simd);

void embedding_gradient_range(const EmbeddingGradient& gradient, std::int64_t begin,
                              std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(embedding_gradient_range_simd)(gradient, begin, end);
}

}  // namespace halftone
#endif
