// SPDX-License-Identifier: Apache-2.0
// The reference of the random bits in adamw_cpu.cpp: the same integer arithmetic in int64
// tensors, which wrap and have no logical shift of their own.
#include "halftone/kernels/common/stochastic_rounding.h"

#include <bit>

#include "halftone/core/error.h"

namespace halftone {
namespace {

constexpr std::int64_t kLow32 = 0xFFFFFFFFLL;

torch::Tensor shift_right(const torch::Tensor& x, int bits) {
  return x.bitwise_right_shift(bits).bitwise_and((std::int64_t{1} << (64 - bits)) - 1);
}

// random_word() of core/random.h, of tensors.
torch::Tensor random_words(const torch::Tensor& seed, const torch::Tensor& index) {
  const auto golden = std::bit_cast<std::int64_t>(std::uint64_t{0x9E3779B97F4A7C15});
  torch::Tensor z = seed + (index + 1) * golden;
  z = (z ^ shift_right(z, 30)) * std::bit_cast<std::int64_t>(std::uint64_t{0xBF58476D1CE4E5B9});
  z = (z ^ shift_right(z, 27)) * std::bit_cast<std::int64_t>(std::uint64_t{0x94D049BB133111EB});
  return z ^ shift_right(z, 31);
}

torch::Tensor low(const torch::Tensor& x) { return x.bitwise_and(kLow32); }

// rounding_bits() of adamw_impl.h for `count` indices from `first` on.
torch::Tensor random_bits(const torch::Tensor& stream, std::int64_t first, std::int64_t count) {
  const torch::Tensor index = torch::arange(first, first + count, stream.options());
  const torch::Tensor key = random_words(stream, index.bitwise_right_shift(32));
  torch::Tensor x = low(index ^ key);
  x = low((x ^ shift_right(x, 16)) * 0x7FEB352DLL + shift_right(key, 32));
  x = low((x ^ shift_right(x, 15)) * 0x846CA68BLL);
  return x ^ shift_right(x, 16);
}

}  // namespace

torch::Tensor step_words(std::uint64_t seed, const torch::Tensor& step, std::int64_t first_index,
                         std::int64_t count) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor seeds = torch::full({}, std::bit_cast<std::int64_t>(seed), step.options());
  return random_bits(random_words(seeds, step.reshape({})), first_index, count);
}

torch::Tensor round_stochastically(const torch::Tensor& values, std::uint64_t seed,
                                   const torch::Tensor& step, std::int64_t first_index) {
  const torch::Tensor words = step_words(seed, step, first_index, values.numel());
  return round_stochastically(values, shift_right(words, 16));
}

torch::Tensor round_stochastically(const torch::Tensor& values, const torch::Tensor& words) {
  HALFTONE_CHECK(values.scalar_type() == torch::kFloat && values.dim() == 1,
                 "[round_stochastically] expected a flat fp32 tensor, got ", values.scalar_type(),
                 " ", values.sizes());
  const torch::NoGradGuard no_grad;
  const torch::Tensor bits = values.contiguous().view(torch::kInt);
  const torch::Tensor raised = bits + words.bitwise_and(0xFFFF).to(torch::kInt);
  const torch::Tensor truncated =
      raised.bitwise_and(static_cast<std::int64_t>(-65536)).view(torch::kFloat);
  return at::where(values.isfinite(), truncated, values).to(torch::kBFloat16);
}

torch::Tensor rounding_words(std::uint64_t stream, std::int64_t count, torch::Device device) {
  const torch::NoGradGuard no_grad;
  const auto options = torch::dtype(torch::kLong).device(device);
  return random_bits(torch::full({}, std::bit_cast<std::int64_t>(stream), options), 0, count);
}

}  // namespace halftone
