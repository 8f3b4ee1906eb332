// SPDX-License-Identifier: Apache-2.0
// Compiled once for each instruction set; the best one of the machine is chosen at run time. No
// fused multiply-add, so that every instruction set gives the bits of the reference.
#include <cstring>

#include "halftone/kernels/common/highway_targets.h"
#include "halftone/kernels/optimizer/adamw_impl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/kernels/optimizer/adamw_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "halftone/kernels/common/convert_impl.h"
#include "halftone/kernels/optimizer/moments_simd_impl.h"

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
void adamw_range_simd(const AdamWRange&, const AdamWConstants&) {}
#else
namespace {

using DU = hn::RebindToUnsigned<D>;
using VU = hn::Vec<DU>;

struct State {
  V weight, exp_avg, exp_avg_sq;
};

struct NextState {
  V weight, exp_avg, exp_avg_sq;
  V root;  // of exp_avg_sq
};

// In PyTorch's order of operations.
HWY_INLINE NextState update(const State& old, V gradient, const AdamWConstants& c) {
  const D d;
  const V decayed = hn::Mul(old.weight, hn::Set(d, c.decay));
  const V exp_avg =
      hn::Add(old.exp_avg, hn::Mul(hn::Sub(gradient, old.exp_avg), hn::Set(d, c.first_weight)));
  const V squared = hn::Mul(hn::Mul(gradient, hn::Set(d, c.second_weight)), gradient);
  const V exp_avg_sq = hn::Add(hn::Mul(old.exp_avg_sq, hn::Set(d, c.second_keep)), squared);
  const V root = hn::Sqrt(exp_avg_sq);
  const V corrected = hn::Div(root, hn::Set(d, c.root_correction));
  const V change =
      hn::Div(hn::Mul(exp_avg, hn::Set(d, c.step_size)), hn::Add(corrected, hn::Set(d, c.eps)));
  return {hn::Sub(decayed, change), exp_avg, exp_avg_sq, root};
}

// rounding_bits() for a vector of consecutive indices.
HWY_INLINE VU random_bits(std::uint32_t first, const std::uint32_t (&key)[2]) {
  const DU du;
  auto x = hn::Xor(hn::Iota(du, first), hn::Set(du, key[0]));
  x = hn::Mul(hn::Xor(x, hn::ShiftRight<16>(x)), hn::Set(du, 0x7FEB352DU));
  x = hn::Add(x, hn::Set(du, key[1]));
  x = hn::Mul(hn::Xor(x, hn::ShiftRight<15>(x)), hn::Set(du, 0x846CA68BU));
  return hn::Xor(x, hn::ShiftRight<16>(x));
}

template <class T>
HWY_INLINE T* at(void* begin, std::int64_t i) {
  return static_cast<T*>(begin) + i;
}
template <class T>
HWY_INLINE const T* at(const void* begin, std::int64_t i) {
  return static_cast<const T*>(begin) + i;
}

// The ways in which weights are stored: what a step reads and what it leaves, from element i on.

template <class Element>
struct PlainWeights {
  using Type = typename Element::Type;
  static HWY_INLINE V load(const AdamWRange& range, std::int64_t i) {
    return Element::load(D(), at<Type>(range.weights, i));
  }
  static HWY_INLINE void store(V weight, const AdamWRange& range, std::int64_t i,
                               const AdamWConstants&) {
    Element::store(weight, D(), at<Type>(range.weights, i));
  }
};

struct RoundedWeights : PlainWeights<BFloat16> {
  static HWY_INLINE void store(V weight, const AdamWRange& range, std::int64_t i,
                               const AdamWConstants& c) {
    const auto index = range.first_index + static_cast<std::uint32_t>(i);
    BFloat16::store_stochastic(weight, random_bits(index, c.key), D(), at<Type>(range.weights, i));
  }
};

HWY_INLINE VU upper_half(const AdamWRange& range, std::int64_t i) {
  const hn::Rebind<std::uint16_t, D> d16;
  return hn::ShiftLeft<16>(
      hn::PromoteTo(DU(), hn::LoadU(d16, at<std::uint16_t>(range.weights, i))));
}

HWY_INLINE void store_16(VU bits, std::uint16_t* to) {
  const hn::Rebind<std::uint16_t, D> d16;
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(DI(), bits)), d16, to);
}

// 24 bits and zeros.
template <bool kStochastic>
HWY_INLINE VU rounded_to_24_bits(V weight, std::uint32_t index, const AdamWConstants& c) {
  const DU du;
  const VU bits = hn::BitCast(du, weight);
  VU raised;
  if constexpr (kStochastic) {
    raised = hn::Add(bits, hn::ShiftRight<24>(random_bits(index, c.key)));
  } else {
    const VU odd = hn::And(hn::ShiftRight<8>(bits), hn::Set(du, 1U));
    raised = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FU)));
  }
  const auto finite = hn::RebindMask(du, hn::IsFinite(weight));
  return hn::And(hn::IfThenElse(finite, raised, bits), hn::Set(du, 0xFFFFFF00U));
}

struct Split16Weights {
  using Type = std::uint16_t;
  using Low = std::uint16_t;
  static HWY_INLINE V load(const AdamWRange& range, std::int64_t i) {
    const hn::Rebind<Low, D> d16;
    const VU low = hn::PromoteTo(DU(), hn::LoadU(d16, at<Low>(range.master_low, i)));
    return hn::BitCast(D(), hn::Or(upper_half(range, i), low));
  }
  static HWY_INLINE void store(V weight, const AdamWRange& range, std::int64_t i,
                               const AdamWConstants&) {
    const DU du;
    const VU bits = hn::BitCast(du, weight);
    store_16(hn::ShiftRight<16>(bits), at<Type>(range.weights, i));
    store_16(hn::And(bits, hn::Set(du, 0xFFFFU)), at<Low>(range.master_low, i));
  }
};

template <bool kStochastic>
struct Split8Weights {
  using Type = std::uint16_t;
  using Low = std::uint8_t;
  static HWY_INLINE V load(const AdamWRange& range, std::int64_t i) {
    const hn::Rebind<Low, D> d8;
    const VU low = hn::PromoteTo(DU(), hn::LoadU(d8, at<Low>(range.master_low, i)));
    return hn::BitCast(D(), hn::Or(upper_half(range, i), hn::ShiftLeft<8>(low)));
  }
  static HWY_INLINE void store(V weight, const AdamWRange& range, std::int64_t i,
                               const AdamWConstants& c) {
    const DU du;
    const auto index = range.first_index + static_cast<std::uint32_t>(i);
    const VU bits = rounded_to_24_bits<kStochastic>(weight, index, c);
    store_16(hn::ShiftRight<16>(bits), at<Type>(range.weights, i));
    const VU low = hn::And(hn::ShiftRight<8>(bits), hn::Set(du, 0xFFU));
    const hn::Rebind<Low, D> d8;
    hn::StoreU(hn::DemoteTo(d8, hn::BitCast(DI(), low)), d8, at<Low>(range.master_low, i));
  }
};

// The ways in which moments are stored; start() and finish() frame what is done with a block.

struct FloatMoments {
  static HWY_INLINE void start(const AdamWRange&, const AdamWConstants&) {}
  static HWY_INLINE V exp_avg(const AdamWRange& range, std::int64_t i) {
    return hn::LoadU(D(), at<float>(range.exp_avg, i));
  }
  static HWY_INLINE V exp_avg_sq(const AdamWRange& range, std::int64_t i) {
    return hn::LoadU(D(), at<float>(range.exp_avg_sq, i));
  }
  static HWY_INLINE void store(const NextState& next, const AdamWRange& range, std::int64_t i,
                               const AdamWConstants&) {
    hn::StoreU(next.exp_avg, D(), at<float>(range.exp_avg, i));
    hn::StoreU(next.exp_avg_sq, D(), at<float>(range.exp_avg_sq, i));
  }
  static HWY_INLINE void finish(const AdamWRange&) {}
};

struct BFloat16Moments {
  using T = BFloat16::Type;
  static HWY_INLINE void start(const AdamWRange&, const AdamWConstants&) {}
  static HWY_INLINE V exp_avg(const AdamWRange& range, std::int64_t i) {
    return BFloat16::load(D(), at<T>(range.exp_avg, i));
  }
  static HWY_INLINE V exp_avg_sq(const AdamWRange& range, std::int64_t i) {
    return BFloat16::load(D(), at<T>(range.exp_avg_sq, i));
  }
  static HWY_INLINE void store(const NextState& next, const AdamWRange& range, std::int64_t i,
                               const AdamWConstants& c) {
    const VU random = random_bits(range.first_index + static_cast<std::uint32_t>(i), c.moment_key);
    BFloat16::store_stochastic(next.exp_avg, random, D(), at<T>(range.exp_avg, i));
    BFloat16::store_stochastic(next.exp_avg_sq, hn::ShiftLeft<16>(random), D(),
                               at<T>(range.exp_avg_sq, i));
  }
  static HWY_INLINE void finish(const AdamWRange&) {}
};

// A block's values wait here, in fp32, for its scales. Three loops instead of one: the chain from
// code to code is too long for a CPU to look beyond it.
class Int8Moments {
 public:
  HWY_INLINE Int8Moments() : largest_(hn::Zero(DI())), largest_root_(hn::Zero(DI())) {}
  HWY_INLINE void start(const AdamWRange& range, const AdamWConstants& c) {
    const D d;
    const V least_root = hn::Set(d, c.least_root);
    const V scale = hn::Set(d, *range.exp_avg_scale);
    const V root_scale = hn::Set(d, *range.exp_avg_sq_scale);
    for (std::int64_t i = 0; i < kMomentBlock; i += lanes()) {
      const V code = decode(signed_, at<std::uint8_t>(range.exp_avg, i));
      const V root_code = decode(unsigned_, at<std::uint8_t>(range.exp_avg_sq, i));
      const V first = hn::Mul(code, scale);
      const V stored = hn::Mul(root_code, root_scale);
      const V least = hn::Mul(hn::Abs(first), least_root);
      const V root = hn::IfThenElse(hn::Gt(least, stored), least, stored);
      hn::StoreU(first, d, first_ + i);
      hn::StoreU(hn::Mul(root, root), d, second_ + i);
    }
  }
  HWY_INLINE V exp_avg(const AdamWRange&, std::int64_t i) const {
    return hn::LoadU(D(), first_ + i);
  }
  HWY_INLINE V exp_avg_sq(const AdamWRange&, std::int64_t i) const {
    return hn::LoadU(D(), second_ + i);
  }
  HWY_INLINE void store(const NextState& next, const AdamWRange&, std::int64_t i,
                        const AdamWConstants&) {
    hn::StoreU(next.exp_avg, D(), first_ + i);
    hn::StoreU(next.root, D(), second_ + i);
    largest_ = larger_magnitude(largest_, next.exp_avg);
    largest_root_ = larger_magnitude(largest_root_, next.root);
  }
  HWY_INLINE void finish(const AdamWRange& range) {
    *range.exp_avg_scale = scale_of(largest_);
    *range.exp_avg_sq_scale = with_finite_squares(second_, scale_of(largest_root_));
    encode_block(signed_, first_, *range.exp_avg_scale, at<std::uint8_t>(range.exp_avg, 0));
    encode_block(unsigned_, second_, *range.exp_avg_sq_scale,
                 at<std::uint8_t>(range.exp_avg_sq, 0));
    largest_ = hn::Zero(DI());
    largest_root_ = hn::Zero(DI());
  }

 private:
  MapTables<false> signed_;
  MapTables<true> unsigned_;
  VI largest_, largest_root_;
  float first_[kMomentBlock];   // exp_avg
  float second_[kMomentBlock];  // exp_avg_sq, later its root
};

// A step is written for these three together, and goes through memory block by block.
template <class W, class G, class M>
struct Layout {
  using Weights = W;
  using Gradient = G;
  using Moments = M;
};

template <class Layout>
HWY_INLINE void update_block(const AdamWRange& range, const AdamWConstants& c,
                             typename Layout::Moments& moments) {
  using Weights = typename Layout::Weights;
  using Gradient = typename Layout::Gradient;
  const D d;
  moments.start(range, c);
  for (std::int64_t i = 0; i < kMomentBlock; i += lanes()) {
    const V gradient = hn::Mul(Gradient::load(d, at<typename Gradient::Type>(range.gradients, i)),
                               hn::Set(d, c.gradient_factor));
    const NextState next =
        update({Weights::load(range, i), moments.exp_avg(range, i), moments.exp_avg_sq(range, i)},
               gradient, c);
    Weights::store(next.weight, range, i, c);
    moments.store(next, range, i, c);
  }
  moments.finish(range);
}

// Bytes of an element.
struct Widths {
  std::int64_t weight, gradient, moment, low;
};

HWY_INLINE Widths widths_of(const AdamWRange& range) {
  const auto of = [](KernelType type) { return type == KernelType::kFloat ? 4 : 2; };
  const std::int64_t moment = range.moments == MomentType::kFloat      ? 4
                              : range.moments == MomentType::kBFloat16 ? 2
                                                                       : 1;
  const std::int64_t low = range.master == MasterBits::kNone ? 0
                           : range.master == MasterBits::k8  ? 1
                                                             : 2;
  return {of(range.type), of(range.gradient_type), moment, low};
}

HWY_INLINE AdamWRange advanced(AdamWRange range, std::int64_t by) {
  const Widths width = widths_of(range);
  range.weights = at<char>(range.weights, by * width.weight);
  range.gradients = at<char>(range.gradients, by * width.gradient);
  range.exp_avg = at<char>(range.exp_avg, by * width.moment);
  range.exp_avg_sq = at<char>(range.exp_avg_sq, by * width.moment);
  if (range.moments == MomentType::kInt8) {
    range.exp_avg_scale += by / kMomentBlock;
    range.exp_avg_sq_scale += by / kMomentBlock;
  }
  if (range.master != MasterBits::kNone)
    range.master_low = at<char>(range.master_low, by * width.low);
  range.first_index += static_cast<std::uint32_t>(by);
  range.size -= by;
  return range;
}

// A block that ends early, made whole: the same code on copies, so that where a range is cut does
// not show in the result. What is added is 0 and stays 0.
class PaddedBlock {
 public:
  HWY_INLINE explicit PaddedBlock(const AdamWRange& range) : range_(range) {
    const Widths width = widths_of(range);
    const auto size = static_cast<std::size_t>(range.size);
    copies_[0] = {range.weights, size * static_cast<std::size_t>(width.weight)};
    copies_[1] = {range.exp_avg, size * static_cast<std::size_t>(width.moment)};
    copies_[2] = {range.exp_avg_sq, size * static_cast<std::size_t>(width.moment)};
    copies_[3] = {range.master_low, size * static_cast<std::size_t>(width.low)};
    std::memset(bytes_, 0, sizeof bytes_);
    for (int k = 0; k < 4; ++k)
      if (copies_[k].bytes > 0) std::memcpy(bytes_[k], copies_[k].from, copies_[k].bytes);
    std::memcpy(bytes_[4], range.gradients, size * static_cast<std::size_t>(width.gradient));
    range_.weights = bytes_[0];
    range_.exp_avg = bytes_[1];
    range_.exp_avg_sq = bytes_[2];
    range_.master_low = bytes_[3];
    range_.gradients = bytes_[4];
  }
  const AdamWRange& range() const { return range_; }
  HWY_INLINE void write_back() const {
    for (int k = 0; k < 4; ++k)
      if (copies_[k].bytes > 0) std::memcpy(copies_[k].from, bytes_[k], copies_[k].bytes);
  }

 private:
  struct Copy {
    void* from;
    std::size_t bytes;
  };
  AdamWRange range_;
  Copy copies_[4];
  float bytes_[5][kMomentBlock];
};

template <class Layout>
void update_range(const AdamWRange& range, const AdamWConstants& c) {
  typename Layout::Moments moments;
  std::int64_t i = 0;
  for (; i + kMomentBlock <= range.size; i += kMomentBlock)
    update_block<Layout>(advanced(range, i), c, moments);
  if (i == range.size) return;
  PaddedBlock rest(advanced(range, i));
  update_block<Layout>(rest.range(), c, moments);
  rest.write_back();
}

template <class Weights, class Gradient>
void update_with(const AdamWRange& range, const AdamWConstants& c) {
  switch (range.moments) {
    case MomentType::kFloat:
      return update_range<Layout<Weights, Gradient, FloatMoments> >(range, c);
    case MomentType::kBFloat16:
      return update_range<Layout<Weights, Gradient, BFloat16Moments> >(range, c);
    case MomentType::kInt8:
      return update_range<Layout<Weights, Gradient, Int8Moments> >(range, c);
  }
}

template <class Gradient>
void update_bfloat16(const AdamWRange& range, const AdamWConstants& c) {
  switch (range.master) {
    case MasterBits::k16:
      return update_with<Split16Weights, Gradient>(range, c);
    case MasterBits::k8:
      return c.stochastic_rounding ? update_with<Split8Weights<true>, Gradient>(range, c)
                                   : update_with<Split8Weights<false>, Gradient>(range, c);
    case MasterBits::kNone:
      return c.stochastic_rounding ? update_with<RoundedWeights, Gradient>(range, c)
                                   : update_with<PlainWeights<BFloat16>, Gradient>(range, c);
  }
}

}  // namespace

void adamw_range_simd(const AdamWRange& range, const AdamWConstants& c) {
  const bool wide = range.gradient_type == KernelType::kFloat;
  switch (range.type) {
    case KernelType::kFloat:
      return update_with<PlainWeights<Float>, Float>(range, c);
    case KernelType::kHalf:
      return wide ? update_with<PlainWeights<Half>, Float>(range, c)
                  : update_with<PlainWeights<Half>, Half>(range, c);
    case KernelType::kBFloat16:
      return wide ? update_bfloat16<Float>(range, c) : update_bfloat16<BFloat16>(range, c);
  }
}

#endif  // HWY_TARGET == HWY_SCALAR

// On x86-64 the numbers of better instruction sets are lower; on Arm every set but none is NEON.
bool is_wide_enough() {
  return HWY_ARCH_ARM_A64 ? HWY_TARGET != HWY_SCALAR : HWY_TARGET <= HWY_AVX2;
}

}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(adamw_range_simd);
HWY_EXPORT(is_wide_enough);

// Not hwy::SupportedTargets(), which asks the CPU each time: slow in a virtual machine.
bool has_simd_kernels() { return HWY_DYNAMIC_DISPATCH(is_wide_enough)(); }

void adamw_range(const AdamWRange& range, const AdamWConstants& constants) {
  HWY_DYNAMIC_DISPATCH(adamw_range_simd)(range, constants);
}

}  // namespace halftone
#endif
