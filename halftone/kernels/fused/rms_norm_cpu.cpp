// SPDX-License-Identifier: Apache-2.0
// Compiled once for each instruction set; the best one of the machine is chosen at run time.
#include <cmath>

#include "halftone/kernels/common/highway_targets.h"
#include "halftone/kernels/fused/rms_norm_impl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/kernels/fused/rms_norm_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "halftone/kernels/common/convert_impl.h"

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
void rms_norm_rows_simd(const RmsNormRows&, std::int64_t, std::int64_t) {}
void rms_norm_grad_rows_simd(const RmsNormGradRows&, std::int64_t, std::int64_t, float*) {}
#else

template <class Element>
const typename Element::Type* row_of(const void* data, std::int64_t row, std::int64_t width) {
  return data == nullptr ? nullptr : static_cast<const typename Element::Type*>(data) + row * width;
}

template <class Element>
typename Element::Type* row_of(void* data, std::int64_t row, std::int64_t width) {
  return data == nullptr ? nullptr : static_cast<typename Element::Type*>(data) + row * width;
}

template <class Element, class Branch, class Normed>
void norm_row(const RmsNormRows& rows, std::int64_t row) {
  const D d;
  const std::int64_t width = rows.width;
  const auto* x = row_of<Element>(rows.x, row, width);
  const auto* branch = row_of<Branch>(rows.branch, row, width);
  auto* sum = row_of<Element>(rows.sum, row, width);
  V squares = hn::Zero(d);
  for (std::int64_t i = 0; i < width; i += lanes()) {
    V value = load_some<Element>(d, x + i, width - i);
    if (branch != nullptr) {
      value = Element::rounded(d, hn::Add(value, load_some<Branch>(d, branch + i, width - i)));
      store_some<Element>(value, d, sum + i, width - i);
    }
    squares = hn::MulAdd(value, value, squares);
  }
  const float mean = hn::GetLane(hn::SumOfLanes(d, squares)) / static_cast<float>(width);
  const float inverse_rms = 1.0F / std::sqrt(mean + rows.eps);
  rows.inverse_rms[row] = inverse_rms;
  const auto* values = sum != nullptr ? sum : x;
  const auto* weight = row_of<Element>(rows.weight, 0, width);
  auto* normed = row_of<Normed>(rows.normed, row, width);
  const V factor = hn::Set(d, inverse_rms);
  for (std::int64_t i = 0; i < width; i += lanes()) {
    const V value = hn::Mul(load_some<Element>(d, values + i, width - i), factor);
    const V scaled =
        hn::Mul(Element::rounded(d, value), load_some<Element>(d, weight + i, width - i));
    store_some<Normed>(scaled, d, normed + i, width - i);
  }
}

template <class Element, class Branch, class Normed>
void grad_row(const RmsNormGradRows& rows, std::int64_t row, float* d_weight) {
  const D d;
  const std::int64_t width = rows.width;
  const auto* sum = row_of<Element>(rows.sum, row, width);
  const auto* weight = row_of<Element>(rows.weight, 0, width);
  const auto* g = row_of<Normed>(rows.d_normed, row, width);
  const V factor = hn::Set(d, rows.inverse_rms[row]);
  V dot = hn::Zero(d);  // of the normed values and their gradients
  for (std::int64_t i = 0; i < width; i += lanes()) {
    const V value = hn::Mul(load_some<Element>(d, sum + i, width - i), factor);
    const V gradient = load_some<Normed>(d, g + i, width - i);
    dot = hn::MulAdd(hn::Mul(gradient, load_some<Element>(d, weight + i, width - i)), value, dot);
    const V old = load_some<Float>(d, d_weight + i, width - i);
    store_some<Float>(hn::MulAdd(gradient, Element::rounded(d, value), old), d, d_weight + i,
                      width - i);
  }
  const V mean = hn::Set(d, hn::GetLane(hn::SumOfLanes(d, dot)) / static_cast<float>(width));
  const auto* d_sum = row_of<Element>(rows.d_sum, row, width);
  auto* d_x = row_of<Element>(rows.d_x, row, width);
  auto* d_branch = row_of<Branch>(rows.d_branch, row, width);
  for (std::int64_t i = 0; i < width; i += lanes()) {
    const V value = hn::Mul(load_some<Element>(d, sum + i, width - i), factor);
    const V gradient = hn::Mul(load_some<Normed>(d, g + i, width - i),
                               load_some<Element>(d, weight + i, width - i));
    V result = hn::Mul(hn::NegMulAdd(value, mean, gradient), factor);
    if (d_sum != nullptr) result = hn::Add(result, load_some<Element>(d, d_sum + i, width - i));
    store_some<Element>(result, d, d_x + i, width - i);
    if (d_branch != nullptr) store_some<Branch>(result, d, d_branch + i, width - i);
  }
}

template <class Element, class Branch, class Normed>
struct Types {};

/// Calls `loop` with the types of `rows`. A 16-bit stream has branches of its own dtype; an fp32
/// one takes any, and its normed values may have the branch's dtype.
template <class Rows, class Loop>
void with_types(const Rows& rows, const Loop& loop) {
  if (rows.type == KernelType::kBFloat16) return loop(Types<BFloat16, BFloat16, BFloat16>());
  if (rows.type == KernelType::kHalf) return loop(Types<Half, Half, Half>());
  const bool narrow = rows.normed_type != KernelType::kFloat;
  switch (rows.branch_type) {
    case KernelType::kFloat:
      return loop(Types<Float, Float, Float>());
    case KernelType::kBFloat16:
      return narrow ? loop(Types<Float, BFloat16, BFloat16>())
                    : loop(Types<Float, BFloat16, Float>());
    case KernelType::kHalf:
      return narrow ? loop(Types<Float, Half, Half>()) : loop(Types<Float, Half, Float>());
  }
}

template <class Element, class Branch, class Normed>
void norm_rows(const RmsNormRows& rows, std::int64_t begin, std::int64_t end,
               Types<Element, Branch, Normed>) {
  for (std::int64_t row = begin; row < end; ++row) norm_row<Element, Branch, Normed>(rows, row);
}

template <class Element, class Branch, class Normed>
void grad_rows(const RmsNormGradRows& rows, std::int64_t begin, std::int64_t end, float* d_weight,
               Types<Element, Branch, Normed>) {
  for (std::int64_t row = begin; row < end; ++row)
    grad_row<Element, Branch, Normed>(rows, row, d_weight);
}

void rms_norm_rows_simd(const RmsNormRows& rows, std::int64_t begin, std::int64_t end) {
  with_types(rows, [&](auto types) { norm_rows(rows, begin, end, types); });
}

void rms_norm_grad_rows_simd(const RmsNormGradRows& rows, std::int64_t begin, std::int64_t end,
                             float* d_weight) {
  with_types(rows, [&](auto types) { grad_rows(rows, begin, end, d_weight, types); });
}

#endif  // HWY_TARGET == HWY_SCALAR
}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(rms_norm_rows_simd);
HWY_EXPORT(rms_norm_grad_rows_simd);

void rms_norm_rows(const RmsNormRows& rows, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(rms_norm_rows_simd)(rows, begin, end);
}

void rms_norm_grad_rows(const RmsNormGradRows& rows, std::int64_t begin, std::int64_t end,
                        float* d_weight) {
  HWY_DYNAMIC_DISPATCH(rms_norm_grad_rows_simd)(rows, begin, end, d_weight);
}

}  // namespace halftone
#endif
