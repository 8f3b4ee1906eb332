// SPDX-License-Identifier: Apache-2.0
// Compiled once for each instruction set; the best one of the machine is chosen at run time. No
// fused multiply-add, so that every instruction set gives the bits of the composed definition.
#include <cstring>

#include "halftone/kernels/adamw_impl.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/kernels/adamw_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "halftone/kernels/convert_impl.h"

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

struct Weights {
  V weight, exp_avg, exp_avg_sq;
};

// In PyTorch's order of operations.
HWY_INLINE Weights update(Weights old, V gradient, const AdamWConstants& c) {
  const D d;
  const V decayed = hn::Mul(old.weight, hn::Set(d, c.decay));
  const V exp_avg =
      hn::Add(old.exp_avg, hn::Mul(hn::Sub(gradient, old.exp_avg), hn::Set(d, c.first_weight)));
  const V squared = hn::Mul(hn::Mul(gradient, hn::Set(d, c.second_weight)), gradient);
  const V exp_avg_sq = hn::Add(hn::Mul(old.exp_avg_sq, hn::Set(d, c.second_keep)), squared);
  const V root = hn::Div(hn::Sqrt(exp_avg_sq), hn::Set(d, c.root_correction));
  const V change =
      hn::Div(hn::Mul(exp_avg, hn::Set(d, c.step_size)), hn::Add(root, hn::Set(d, c.eps)));
  return {hn::Sub(decayed, change), exp_avg, exp_avg_sq};
}

// rounding_bits() for a vector of consecutive indices.
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> random_bits(std::uint32_t first,
                                                        const AdamWConstants& c) {
  const hn::RebindToUnsigned<D> du;
  auto x = hn::Xor(hn::Iota(du, first), hn::Set(du, c.key[0]));
  x = hn::Mul(hn::Xor(x, hn::ShiftRight<16>(x)), hn::Set(du, 0x7FEB352DU));
  x = hn::Add(x, hn::Set(du, c.key[1]));
  x = hn::Mul(hn::Xor(x, hn::ShiftRight<15>(x)), hn::Set(du, 0x846CA68BU));
  return hn::Xor(x, hn::ShiftRight<16>(x));
}

template <class Element, bool kStochastic>
HWY_INLINE void update_vector(typename Element::Type* weights,
                              const typename Element::Type* gradients, float* exp_avg,
                              float* exp_avg_sq, std::uint32_t index, const AdamWConstants& c) {
  const D d;
  const V gradient = hn::Mul(Element::load(d, gradients), hn::Set(d, c.gradient_factor));
  const Weights next = update(
      {Element::load(d, weights), hn::LoadU(d, exp_avg), hn::LoadU(d, exp_avg_sq)}, gradient, c);
  if constexpr (kStochastic) {
    Element::store_stochastic(next.weight, random_bits(index, c), d, weights);
  } else {
    Element::store(next.weight, d, weights);
  }
  hn::StoreU(next.exp_avg, d, exp_avg);
  hn::StoreU(next.exp_avg_sq, d, exp_avg_sq);
}

template <class Element, bool kStochastic>
void update_range(const AdamWRange& range, const AdamWConstants& c) {
  using T = typename Element::Type;
  auto* weights = static_cast<T*>(range.weights);
  const auto* gradients = static_cast<const T*>(range.gradients);
  std::int64_t i = 0;
  for (; i + lanes() <= range.size; i += lanes()) {
    update_vector<Element, kStochastic>(weights + i, gradients + i, range.exp_avg + i,
                                        range.exp_avg_sq + i,
                                        range.first_index + static_cast<std::uint32_t>(i), c);
  }
  const auto rest = static_cast<std::size_t>(range.size - i);
  if (rest == 0) return;
  // The same vector code on copies: where a range is cut does not show in the result.
  T weight[HWY_MAX_BYTES / sizeof(float)] = {};
  T gradient[HWY_MAX_BYTES / sizeof(float)] = {};
  float first[HWY_MAX_BYTES / sizeof(float)] = {};
  float second[HWY_MAX_BYTES / sizeof(float)] = {};
  std::memcpy(weight, weights + i, rest * sizeof(T));
  std::memcpy(gradient, gradients + i, rest * sizeof(T));
  std::memcpy(first, range.exp_avg + i, rest * sizeof(float));
  std::memcpy(second, range.exp_avg_sq + i, rest * sizeof(float));
  update_vector<Element, kStochastic>(weight, gradient, first, second,
                                      range.first_index + static_cast<std::uint32_t>(i), c);
  std::memcpy(weights + i, weight, rest * sizeof(T));
  std::memcpy(range.exp_avg + i, first, rest * sizeof(float));
  std::memcpy(range.exp_avg_sq + i, second, rest * sizeof(float));
}

void adamw_range_simd(const AdamWRange& range, const AdamWConstants& c) {
  switch (range.type) {
    case KernelType::kFloat:
      return update_range<Float, false>(range, c);
    case KernelType::kHalf:
      return update_range<Half, false>(range, c);
    case KernelType::kBFloat16:
      return c.stochastic_rounding ? update_range<BFloat16, true>(range, c)
                                   : update_range<BFloat16, false>(range, c);
  }
}

// The numbers of better instruction sets are lower.
bool is_avx2_or_better() { return HWY_TARGET <= HWY_AVX2; }

}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(adamw_range_simd);
HWY_EXPORT(is_avx2_or_better);

// Not hwy::SupportedTargets(), which asks the CPU each time: slow in a virtual machine.
bool has_simd_kernels() { return HWY_DYNAMIC_DISPATCH(is_avx2_or_better)(); }

void adamw_range(const AdamWRange& range, const AdamWConstants& constants) {
  HWY_DYNAMIC_DISPATCH(adamw_range_simd)(range, constants);
}

}  // namespace halftone
#endif
