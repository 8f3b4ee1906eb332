// SPDX-License-Identifier: Apache-2.0
// The 8-bit dynamic map, and what moments.cpp, adamw.cpp and their vectorised loops agree on; free
// of LibTorch, so that the loops compile quickly.
//
// Dynamic tree quantisation (Dettmers 2015; Dettmers et al. 2021): seven decades of [0, 1], each
// with twice the codes of the one below, at equal steps; 0 and 1 are codes of their own. Within a
// decade the value is linear in the code, so neither way needs a table of 256.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "halftone/kernels/common/simd_impl.h"

namespace halftone {

/// Magnitudes are numbered from 0 in the order of their values; code bytes of a map with a sign
/// hold the number or its complement to 256, so a byte of 0 is 0 in both.
struct DynamicMap {
  // By decade. Value: (number + offset) * step + origin, in fp32. Entry 0 has the codes 0 and 1,
  // and a line through them.
  std::array<float, 8> step{};
  std::array<float, 8> origin{};
  // And back: x * inverse + shift is the number whose value is x, plus less than a step.
  std::array<float, 8> inverse{};
  std::array<float, 8> shift{};
  std::array<float, 8> last{};       // the decade's highest number
  std::array<float, 8> threshold{};  // the least x that is nearest to a number beyond the decade
  float offset = 0;
  std::uint32_t exponent = 0;  // of offset, as fp32 has it in its bits; the next is decade 1's
  std::uint32_t top = 0;       // the number of 1

  /// The value of a number up to top.
  constexpr float value(std::uint32_t number) const {
    const float place = static_cast<float>(number) + offset;
    const std::uint32_t decade = ((std::bit_cast<std::uint32_t>(place) >> 23U) - exponent) & 7U;
    return place * step[decade] + origin[decade];
  }
};

constexpr DynamicMap make_dynamic_map(bool with_sign) {
  DynamicMap map;
  map.offset = with_sign ? 0.5F : 1.5F;
  map.exponent = with_sign ? 126 : 127;
  map.top = with_sign ? 128 : 255;
  map.step[0] = 1.0F / static_cast<float>(map.top);
  map.origin[0] = -(map.offset * map.step[0]);
  double codes = with_sign ? 1 : 2;  // of a decade
  double scale = 1e-6;               // its upper end
  std::uint32_t last = 0;
  for (std::size_t decade = 1; decade < 8; ++decade) {
    last += static_cast<std::uint32_t>(codes);
    const double step = 0.9 * scale / codes;
    map.step[decade] = static_cast<float>(step);
    map.origin[decade] = static_cast<float>(-0.8 * scale);
    map.inverse[decade] = static_cast<float>(1.0 / step);
    map.shift[decade] = static_cast<float>(0.8 / 0.9 * codes - map.offset);
    map.last[decade] = static_cast<float>(last);
    codes *= 2;
    scale *= 10;
  }
  for (std::size_t decade = 0; decade < 8; ++decade) {
    const auto end = static_cast<std::uint32_t>(map.last[decade]);
    // Exact: the two are close enough for fp64 to hold their sum.
    const double middle = (double{map.value(end)} + double{map.value(end + 1)}) / 2;
    auto threshold = static_cast<float>(middle);
    if (double{threshold} < middle)
      threshold = std::bit_cast<float>(std::bit_cast<std::uint32_t>(threshold) + 1);
    map.threshold[decade] = threshold;
  }
  return map;
}

inline constexpr DynamicMap kSignedMap = make_dynamic_map(true);     // of exp_avg
inline constexpr DynamicMap kUnsignedMap = make_dynamic_map(false);  // of the root of exp_avg_sq

static_assert(kSignedMap.value(0) == 0.0F && kSignedMap.value(kSignedMap.top) == 1.0F);
static_assert(kUnsignedMap.value(0) == 0.0F && kUnsignedMap.value(kUnsignedMap.top) == 1.0F);

/// Elements that share a scale.
inline constexpr std::int64_t kMomentBlock = 256;

/// Scales below it count as 0: their inverse would overflow.
inline constexpr float kLeastScale = 1.17549435e-38F;

/// The largest root whose square is finite.
inline constexpr float kLargestRoot = 0x1.fffffep63F;

/// Blocks of values in fp32 to codes and scales, and back; `size` elements, the last block may be
/// shorter. `root`: the map without a sign, of square roots.
void encode_moments(const float* values, std::int64_t size, bool root, std::uint8_t* codes,
                    float* scales);
void decode_moments(const std::uint8_t* codes, const float* scales, std::int64_t size, bool root,
                    float* values);

}  // namespace halftone
