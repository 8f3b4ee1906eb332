// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/optimizer/split_master.h"

#include "halftone/core/error.h"

namespace halftone {
namespace {

constexpr std::int64_t kHigh24 = -256;  // all but the last 8 bits

torch::Tensor bits_of(const torch::Tensor& master) {
  HALFTONE_CHECK(master.scalar_type() == torch::kFloat, "[split_master] expected fp32, got ",
                 master.scalar_type());
  return master.contiguous().view(torch::kInt);
}

void check_low(torch::ScalarType dtype) {
  HALFTONE_CHECK(dtype == torch::kShort || dtype == torch::kByte,
                 "[split_master] expected the lower part in int16 or uint8, got ", dtype);
}

torch::Tensor rounded(const torch::Tensor& master, const torch::Tensor& increment) {
  const torch::Tensor bits = bits_of(master);
  return at::where(master.isfinite(), bits + increment, bits)
      .bitwise_and(kHigh24)
      .view(torch::kFloat);
}

// 8 bits rounded from 16, in int32; up to 256.
torch::Tensor top_byte(const torch::Tensor& low16) {
  const torch::Tensor odd = low16.bitwise_right_shift(8).bitwise_and(1);
  return (low16 + odd + 0x7F).bitwise_right_shift(8);
}

}  // namespace

torch::Tensor joined_master(const SplitMaster& split) {
  HALFTONE_CHECK(split.weights.scalar_type() == torch::kBFloat16 &&
                     split.weights.sizes() == split.master_low.sizes(),
                 "[split_master] expected bf16 weights and a lower part of their shape, got ",
                 split.weights.scalar_type(), " ", split.weights.sizes(), " and ",
                 split.master_low.sizes());
  check_low(split.master_low.scalar_type());
  const torch::Tensor high = split.weights.to(torch::kFloat).view(torch::kInt);
  const torch::Tensor low = split.master_low.to(torch::kInt);
  const torch::Tensor placed = split.master_low.scalar_type() == torch::kByte
                                   ? low.bitwise_left_shift(8)
                                   : low.bitwise_and(0xFFFF);
  return high.bitwise_or(placed).view(torch::kFloat);
}

SplitMaster split_master(const torch::Tensor& master, torch::ScalarType low) {
  check_low(low);
  const torch::Tensor bits = bits_of(master);
  const torch::Tensor high = bits.bitwise_right_shift(16).to(torch::kShort).view(torch::kBFloat16);
  const torch::Tensor rest = bits.bitwise_and(0xFFFF);
  return {high, (low == torch::kByte ? rest.bitwise_right_shift(8) : rest).to(low)};
}

torch::Tensor rounded_to_24_bits(const torch::Tensor& master) {
  const torch::Tensor odd = bits_of(master).bitwise_right_shift(8).bitwise_and(1);
  return rounded(master, odd + 0x7F);
}

torch::Tensor rounded_to_24_bits(const torch::Tensor& master, const torch::Tensor& random) {
  return rounded(master, random.bitwise_right_shift(24).to(torch::kInt));
}

torch::Tensor master_low_as(const torch::Tensor& low, torch::ScalarType dtype) {
  check_low(low.scalar_type());
  check_low(dtype);
  if (low.scalar_type() == dtype) return low;
  const torch::Tensor wide = low.to(torch::kInt);
  if (dtype == torch::kShort) return wide.bitwise_left_shift(8).to(torch::kShort);
  return top_byte(wide.bitwise_and(0xFFFF)).clamp_max(255).to(torch::kByte);
}

}  // namespace halftone
