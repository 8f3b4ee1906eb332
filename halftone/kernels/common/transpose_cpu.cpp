// SPDX-License-Identifier: Apache-2.0
// Compiled once for each instruction set; the best one of the machine is chosen at run time.
#include "halftone/kernels/common/highway_targets.h"
#include "halftone/kernels/common/transpose_impl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "halftone/kernels/common/transpose_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace halftone::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_SCALAR
void transpose_words_simd(const WordBlock& block, std::uint32_t* target, std::int64_t stride) {
  for (std::int64_t r = 0; r < block.rows; ++r)
    for (std::int64_t c = 0; c < block.columns; ++c)
      target[c * stride + r] = block.words[r * block.stride + c];
}
#else
// Four rows of four words at a time.
HWY_INLINE void transpose_four(const std::uint32_t* from, std::int64_t from_stride,
                               std::uint32_t* to, std::int64_t to_stride) {
  const hn::Full128<std::uint32_t> d;
  const hn::Full128<std::uint64_t> d2;
  const auto a = hn::LoadU(d, from), b = hn::LoadU(d, from + from_stride);
  const auto c = hn::LoadU(d, from + 2 * from_stride), e = hn::LoadU(d, from + 3 * from_stride);
  const auto ab_low = hn::BitCast(d2, hn::InterleaveLower(d, a, b));
  const auto ab_high = hn::BitCast(d2, hn::InterleaveUpper(d, a, b));
  const auto ce_low = hn::BitCast(d2, hn::InterleaveLower(d, c, e));
  const auto ce_high = hn::BitCast(d2, hn::InterleaveUpper(d, c, e));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d2, ab_low, ce_low)), d, to);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d2, ab_low, ce_low)), d, to + to_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d2, ab_high, ce_high)), d, to + 2 * to_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d2, ab_high, ce_high)), d, to + 3 * to_stride);
}

void transpose_words_simd(const WordBlock& block, std::uint32_t* target, std::int64_t stride) {
  const std::int64_t rows = block.rows / 4 * 4, columns = block.columns / 4 * 4;
  for (std::int64_t r = 0; r < rows; r += 4)
    for (std::int64_t c = 0; c < columns; c += 4)
      transpose_four(block.words + r * block.stride + c, block.stride, target + c * stride + r,
                     stride);
  for (std::int64_t r = 0; r < block.rows; ++r)
    for (std::int64_t c = r < rows ? columns : 0; c < block.columns; ++c)
      target[c * stride + r] = block.words[r * block.stride + c];
}
#endif  // HWY_TARGET == HWY_SCALAR

}  // namespace halftone::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halftone {

HWY_EXPORT(transpose_words_simd);

void transpose_words(const WordBlock& block, std::uint32_t* target, std::int64_t stride) {
  HWY_DYNAMIC_DISPATCH(transpose_words_simd)(block, target, stride);
}

}  // namespace halftone
#endif
