// SPDX-License-Identifier: Apache-2.0
// Compiled once for each instruction set; the best one of the machine is chosen at run time. No
// fused multiply-add, so that every instruction set gives the bits of the reference.
#include <algorithm>
#include <cstring>

#include "halftone/kernels/common/highway_targets.h"
#include "halftone/kernels/optimizer/moments_impl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/kernels/optimizer/moments_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "halftone/kernels/common/convert_impl.h"
#include "halftone/kernels/optimizer/moments_simd_impl.h"

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
void encode_moments_simd(const float*, std::int64_t, bool, std::uint8_t*, float*) {}
void decode_moments_simd(const std::uint8_t*, const float*, std::int64_t, bool, float*) {}
#else

template <bool kRoot>
void encode_blocks(const float* values, std::int64_t size, std::uint8_t* codes, float* scales) {
  const D d;
  const MapTables<kRoot> tables;
  float block[kMomentBlock];
  std::uint8_t coded[kMomentBlock];
  for (std::int64_t begin = 0; begin < size; begin += kMomentBlock) {
    const auto count = static_cast<std::size_t>(std::min(kMomentBlock, size - begin));
    std::memset(block, 0, sizeof block);
    std::memcpy(block, values + begin, count * sizeof(float));
    VI largest = hn::Zero(DI());
    for (std::int64_t i = 0; i < kMomentBlock; i += lanes()) {
      V value = hn::LoadU(d, block + i);
      if (kRoot) value = hn::Sqrt(value);
      hn::StoreU(value, d, block + i);
      largest = larger_magnitude(largest, value);
    }
    float scale = scale_of(largest);
    if (kRoot) scale = with_finite_squares(block, scale);
    encode_block<kRoot>(tables, block, scale, coded);
    std::memcpy(codes + begin, coded, count);
    scales[begin / kMomentBlock] = scale;
  }
}

template <bool kRoot>
void decode_blocks(const std::uint8_t* codes, const float* scales, std::int64_t size,
                   float* values) {
  const D d;
  const MapTables<kRoot> tables;
  float block[kMomentBlock];
  std::uint8_t coded[kMomentBlock] = {};
  for (std::int64_t begin = 0; begin < size; begin += kMomentBlock) {
    const auto count = static_cast<std::size_t>(std::min(kMomentBlock, size - begin));
    std::memcpy(coded, codes + begin, count);
    const V scale = hn::Set(d, scales[begin / kMomentBlock]);
    for (std::int64_t i = 0; i < kMomentBlock; i += lanes()) {
      V value = hn::Mul(decode<kRoot>(tables, coded + i), scale);
      if (kRoot) value = hn::Mul(value, value);
      hn::StoreU(value, d, block + i);
    }
    std::memcpy(values + begin, block, count * sizeof(float));
  }
}

void encode_moments_simd(const float* values, std::int64_t size, bool root, std::uint8_t* codes,
                         float* scales) {
  root ? encode_blocks<true>(values, size, codes, scales)
       : encode_blocks<false>(values, size, codes, scales);
}

void decode_moments_simd(const std::uint8_t* codes, const float* scales, std::int64_t size,
                         bool root, float* values) {
  root ? decode_blocks<true>(codes, scales, size, values)
       : decode_blocks<false>(codes, scales, size, values);
}

#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(encode_moments_simd);
HWY_EXPORT(decode_moments_simd);

void encode_moments(const float* values, std::int64_t size, bool root, std::uint8_t* codes,
                    float* scales) {
  HWY_DYNAMIC_DISPATCH(encode_moments_simd)(values, size, root, codes, scales);
}

void decode_moments(const std::uint8_t* codes, const float* scales, std::int64_t size, bool root,
                    float* values) {
  HWY_DYNAMIC_DISPATCH(decode_moments_simd)(codes, scales, size, root, values);
}

}  // namespace halftone
#endif
