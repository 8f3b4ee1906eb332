// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/optimizer/gradient_exponents.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <mutex>

#include "halftone/core/error.h"
#include "halftone/kernels/common/operator_impl.h"

namespace halftone {
namespace {

constexpr std::int64_t kExponentsGrain = 65536;  // elements worth a thread
constexpr std::size_t kLanes = 4;  // tables, so that equal neighbours do not wait in turn

std::uint32_t bin_of_fp32(std::uint32_t bits) {
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  return std::max<std::uint32_t>(magnitude >> 23U, magnitude != 0 ? 1 : 0);
}

std::uint32_t bin_of_bf16(std::uint16_t bits) {
  return bin_of_fp32(static_cast<std::uint32_t>(bits) << 16U);
}

std::uint32_t bin_of_fp16(std::uint16_t bits) {
  const std::uint32_t magnitude = bits & 0x7FFFU;
  const std::uint32_t exponent = magnitude >> 10U;
  if (exponent == 31) return 255;
  if (exponent != 0) return exponent + 112;
  // A subnormal is `magnitude` times 2^-24.
  return magnitude == 0 ? 0 : static_cast<std::uint32_t>(102 + std::bit_width(magnitude));
}

template <class Bits, class Bin>
void count(const void* values, std::int64_t size, Bin bin_of, std::int64_t* counts) {
  std::array<std::array<std::uint32_t, kExponentBins>, kLanes> tables{};
  const auto* from = static_cast<const char*>(values);
  const auto bits_at = [&](std::int64_t i) {
    Bits bits;
    std::memcpy(&bits, from + i * static_cast<std::int64_t>(sizeof bits), sizeof bits);
    return bits;
  };
  std::int64_t i = 0;
  for (; i + 4 <= size; i += 4) {
    ++tables[0][bin_of(bits_at(i))];
    ++tables[1][bin_of(bits_at(i + 1))];
    ++tables[2][bin_of(bits_at(i + 2))];
    ++tables[3][bin_of(bits_at(i + 3))];
  }
  for (; i < size; ++i) ++tables[0][bin_of(bits_at(i))];
  for (const auto& table : tables)
    for (std::size_t b = 0; b < table.size(); ++b) counts[b] += table[b];
}

torch::Tensor histogram_buffer(const torch::Tensor& values) {
  return torch::zeros({kExponentBins}, values.options().dtype(torch::kLong));
}

torch::Tensor histogram_by_counting(const torch::Tensor& values) {
  const torch::ScalarType dtype = values.scalar_type();
  if (dtype != torch::kFloat && dtype != torch::kHalf && dtype != torch::kBFloat16)
    return exponent_histogram_reference(values);
  const torch::Tensor flat = values.detach().contiguous();
  torch::Tensor histogram = histogram_buffer(flat);
  auto* total = histogram.mutable_data_ptr<std::int64_t>();
  const auto* bytes = static_cast<const char*>(flat.const_data_ptr());
  const auto width = static_cast<std::int64_t>(flat.element_size());
  std::mutex mutex;
  at::parallel_for(0, flat.numel(), kExponentsGrain, [&](std::int64_t begin, std::int64_t end) {
    std::array<std::int64_t, kExponentBins> counts{};
    // In stretches that the 32-bit counters hold.
    for (constexpr std::int64_t kStretch = std::int64_t{1} << 30U; begin < end; begin += kStretch) {
      const void* from = bytes + begin * width;
      const std::int64_t size = std::min(kStretch, end - begin);
      if (flat.scalar_type() == torch::kFloat) {
        count<std::uint32_t>(from, size, bin_of_fp32, counts.data());
      } else if (flat.scalar_type() == torch::kHalf) {
        count<std::uint16_t>(from, size, bin_of_fp16, counts.data());
      } else {
        count<std::uint16_t>(from, size, bin_of_bf16, counts.data());
      }
    }
    const std::lock_guard lock(mutex);
    for (std::size_t b = 0; b < counts.size(); ++b) total[b] += counts[b];
  });
  return histogram;
}

const Operator<torch::Tensor(const torch::Tensor&)> exponent_histogram_operator(
    "exponent_histogram(Tensor values) -> Tensor", {.reference = exponent_histogram_reference,
                                                    .cpu = histogram_by_counting,
                                                    .meta = histogram_buffer});

}  // namespace

torch::Tensor exponent_histogram(const torch::Tensor& values) {
  const torch::NoGradGuard no_grad;
  HALFTONE_CHECK(values.is_floating_point() && values.layout() == torch::kStrided,
                 "[exponent_histogram] expected a dense floating tensor, got ", values.layout(),
                 " of ", values.scalar_type());
  return exponent_histogram_operator(values);
}

torch::Tensor exponent_histogram_reference(const torch::Tensor& values) {
  const torch::NoGradGuard no_grad;
  const torch::Tensor flat = values.detach().to(torch::kFloat).contiguous().reshape({-1});
  const torch::Tensor magnitude = flat.view(torch::kInt).bitwise_and(0x7FFFFFFF);
  const torch::Tensor bins =
      torch::max(magnitude.bitwise_right_shift(23), magnitude.ne(0).to(torch::kInt));
  torch::Tensor histogram = torch::zeros({kExponentBins}, flat.options().dtype(torch::kLong));
  return histogram.scatter_add_(0, bins.to(torch::kLong),
                                torch::ones_like(bins, torch::dtype(torch::kLong)));
}

}  // namespace halftone
