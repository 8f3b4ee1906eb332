// SPDX-License-Identifier: Apache-2.0
// Compiled once for each instruction set; the best one of the machine is chosen at run time.
#include "halftone/kernels/common/highway_targets.h"
#include "halftone/kernels/fused/swiglu_impl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/kernels/fused/swiglu_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// After highway.h.
#include <hwy/contrib/math/math-inl.h>

#include "halftone/kernels/common/convert_impl.h"

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
void swiglu_rows_simd(const SwigluRows&, std::int64_t, std::int64_t) {}
void swiglu_grad_rows_simd(const SwigluGradRows&, std::int64_t, std::int64_t) {}
#else

// 1 / (1 + e^-z), from e^-|z|, which can't overflow.
HWY_INLINE V sigmoid(V z) {
  const D d;
  const V small = hn::Exp(d, hn::Neg(hn::Abs(z)));
  const V one = hn::Set(d, 1.0F);
  const V numerator = hn::IfThenElse(hn::Lt(z, hn::Zero(d)), small, one);
  return hn::Div(numerator, hn::Add(one, small));
}

template <class Element>
void swiglu_row(const typename Element::Type* gate, const typename Element::Type* up,
                std::int64_t width, typename Element::Type* out) {
  const D d;
  for (std::int64_t i = 0; i < width; i += lanes()) {
    const V z = load_some<Element>(d, gate + i, width - i);
    const V silu = Element::rounded(d, hn::Mul(z, sigmoid(z)));
    const V result = hn::Mul(silu, load_some<Element>(d, up + i, width - i));
    store_some<Element>(result, d, out + i, width - i);
  }
}

template <class Element>
struct GradRow {
  const typename Element::Type* gate;
  const typename Element::Type* up;
  const typename Element::Type* d_out;
  typename Element::Type* d_gate;
  typename Element::Type* d_up;
  typename Element::Type* out;
};

template <class Element>
void swiglu_grad_row(const GradRow<Element>& row, std::int64_t width) {
  const D d;
  const V one = hn::Set(d, 1.0F);
  for (std::int64_t i = 0; i < width; i += lanes()) {
    const V z = load_some<Element>(d, row.gate + i, width - i);
    const V g = load_some<Element>(d, row.d_out + i, width - i);
    const V s = sigmoid(z);
    const V silu = Element::rounded(d, hn::Mul(z, s));
    store_some<Element>(hn::Mul(g, silu), d, row.d_up + i, width - i);
    const V up = load_some<Element>(d, row.up + i, width - i);
    if (row.out != nullptr) store_some<Element>(hn::Mul(silu, up), d, row.out + i, width - i);
    const V d_silu = Element::rounded(d, hn::Mul(g, up));
    // d silu / dz = s (1 + z (1 - s))
    const V slope = hn::Mul(s, hn::MulAdd(z, hn::Sub(one, s), one));
    store_some<Element>(hn::Mul(d_silu, slope), d, row.d_gate + i, width - i);
  }
}

template <class Element>
void forward_rows(const SwigluRows& rows, std::int64_t begin, std::int64_t end) {
  using T = typename Element::Type;
  for (std::int64_t r = begin; r < end; ++r) {
    const T* gate = static_cast<const T*>(rows.gate_up) + r * 2 * rows.width;
    swiglu_row<Element>(gate, gate + rows.width, rows.width,
                        static_cast<T*>(rows.out) + r * rows.width);
  }
}

template <class Element>
void grad_rows(const SwigluGradRows& rows, std::int64_t begin, std::int64_t end) {
  using T = typename Element::Type;
  for (std::int64_t r = begin; r < end; ++r) {
    const T* gate = static_cast<const T*>(rows.gate_up) + r * 2 * rows.width;
    T* d_gate = static_cast<T*>(rows.d_gate_up) + r * 2 * rows.width;
    T* out = rows.out == nullptr ? nullptr : static_cast<T*>(rows.out) + r * rows.width;
    swiglu_grad_row<Element>({.gate = gate,
                              .up = gate + rows.width,
                              .d_out = static_cast<const T*>(rows.d_out) + r * rows.width,
                              .d_gate = d_gate,
                              .d_up = d_gate + rows.width,
                              .out = out},
                             rows.width);
  }
}

void swiglu_rows_simd(const SwigluRows& rows, std::int64_t begin, std::int64_t end) {
  return with_element(
      rows.type, [&](auto element) { return forward_rows<decltype(element)>(rows, begin, end); });
}

void swiglu_grad_rows_simd(const SwigluGradRows& rows, std::int64_t begin, std::int64_t end) {
  return with_element(rows.type,
                      [&](auto element) { return grad_rows<decltype(element)>(rows, begin, end); });
}

#endif  // HWY_TARGET == HWY_SCALAR
}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(swiglu_rows_simd);
HWY_EXPORT(swiglu_grad_rows_simd);

void swiglu_rows(const SwigluRows& rows, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(swiglu_rows_simd)(rows, begin, end);
}

void swiglu_grad_rows(const SwigluGradRows& rows, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(swiglu_grad_rows_simd)(rows, begin, end);
}

}  // namespace halftone
#endif
