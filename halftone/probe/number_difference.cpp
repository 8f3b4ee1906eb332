// SPDX-License-Identifier: Apache-2.0
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "halftone/core/dtype.h"
#include "halftone/probe/number_difference_impl.h"

namespace halftone {
namespace {

constexpr std::int64_t kBlock = 1024;
constexpr std::int64_t kLanes = 4;

/// Vectors of the compiler, as every instruction set has them.
using Floats = float __attribute__((vector_size(kLanes * sizeof(float))));
using Bits = std::int32_t __attribute__((vector_size(kLanes * sizeof(std::int32_t))));

Bits magnitude_bits(Floats numbers) {
  return reinterpret_cast<Bits>(numbers) & std::numeric_limits<std::int32_t>::max();
}

/// All ones where the number is neither inf nor nan.
Bits finite_lanes(Bits magnitudes) {
  constexpr std::int32_t kInfinity = 0x7f800000;
  return magnitudes < kInfinity;
}

Floats chosen(Floats numbers, Bits lanes) {
  return reinterpret_cast<Floats>(reinterpret_cast<Bits>(numbers) & lanes);
}

template <typename Vector>
double total(Vector lanes) {
  double sum = 0.0;
  for (std::int64_t lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
  return sum;
}

/// Sums over numbers side by side, in fp32.
struct LaneSums {
  Floats error{}, narrows{}, wides{}, product{};
  Bits flushed{}, overflowed{};

  void add(const float* narrow, const float* wide) {
    Floats y, x;
    std::memcpy(&y, narrow, sizeof y);
    std::memcpy(&x, wide, sizeof x);
    const Bits y_bits = magnitude_bits(y), x_bits = magnitude_bits(x);
    const Bits y_finite = finite_lanes(y_bits), x_finite = finite_lanes(x_bits);
    const Floats a = chosen(y, y_finite & x_finite), b = chosen(x, y_finite & x_finite);
    error += (a - b) * (a - b);
    narrows += a * a;
    wides += b * b;
    product += a * b;
    flushed -= (y_bits == 0) & (x_bits != 0);
    overflowed -= ~y_finite & x_finite;
  }
};

/// Of at most kBlock numbers, in fp32.
NumberDifference fp32_sums(const float* narrow, const float* wide, std::int64_t count) {
  LaneSums sums;
  const std::int64_t whole = count / kLanes * kLanes;
  for (std::int64_t i = 0; i < whole; i += kLanes) sums.add(narrow + i, wide + i);
  // Zeros behind the end change no sum.
  std::array<float, kLanes> last_narrow{}, last_wide{};
  std::copy(narrow + whole, narrow + count, last_narrow.begin());
  std::copy(wide + whole, wide + count, last_wide.begin());
  sums.add(last_narrow.data(), last_wide.data());
  return {.numbers = count,
          .flushed = static_cast<std::int64_t>(total(sums.flushed)),
          .overflowed = static_cast<std::int64_t>(total(sums.overflowed)),
          .squared_error = total(sums.error),
          .squared_narrow = total(sums.narrows),
          .squared_wide = total(sums.wides),
          .product = total(sums.product)};
}

/// The sums again in fp64, for squares beyond fp32.
NumberDifference fp64_sums(NumberDifference sums, const float* narrow, const float* wide) {
  sums.squared_error = sums.squared_narrow = sums.squared_wide = sums.product = 0.0;
  for (std::int64_t i = 0; i < sums.numbers; ++i) {
    if (!std::isfinite(narrow[i]) || !std::isfinite(wide[i])) continue;
    const double a = narrow[i], b = wide[i];
    sums.squared_error += (a - b) * (a - b);
    sums.squared_narrow += a * a;
    sums.squared_wide += b * b;
    sums.product += a * b;
  }
  return sums;
}

/// `numbers` as floats: themselves, or in `room` for kBlock of them.
const float* as_floats(const float* numbers, std::int64_t /*count*/, float* /*room*/) {
  return numbers;
}
template <typename Number>
const float* as_floats(const Number* numbers, std::int64_t count, float* room) {
  for (std::int64_t i = 0; i < count; ++i) room[i] = static_cast<float>(numbers[i]);
  return room;
}

NumberDifference block_difference(const float* narrow, const float* wide, std::int64_t count) {
  const NumberDifference sums = fp32_sums(narrow, wide, count);
  const bool is_finite =
      std::isfinite(sums.squared_error + sums.squared_narrow + sums.squared_wide + sums.product);
  return is_finite ? sums : fp64_sums(sums, narrow, wide);
}

template <typename Narrow>
NumberDifference dense_difference(const Narrow* narrow, const float* wide, std::int64_t count) {
  return at::parallel_reduce(
      0, (count + kBlock - 1) / kBlock, /*grain_size=*/32, NumberDifference(),
      [&](std::int64_t begin, std::int64_t end, NumberDifference total) {
        std::array<float, kBlock> room;
        for (std::int64_t block = begin; block < end; ++block) {
          const std::int64_t at = block * kBlock, numbers = std::min(kBlock, count - at);
          total +=
              block_difference(as_floats(narrow + at, numbers, room.data()), wide + at, numbers);
        }
        return total;
      },
      [](NumberDifference a, const NumberDifference& b) { return a += b; });
}

}  // namespace

NumberDifference& NumberDifference::operator+=(const NumberDifference& other) {
  numbers += other.numbers;
  flushed += other.flushed;
  overflowed += other.overflowed;
  squared_error += other.squared_error;
  squared_narrow += other.squared_narrow;
  squared_wide += other.squared_wide;
  product += other.product;
  return *this;
}

double NumberDifference::relative_error() const {
  if (squared_error == 0.0) return 0.0;
  return std::sqrt(squared_error / squared_wide);
}

double NumberDifference::cosine() const {
  if (squared_narrow == 0.0 && squared_wide == 0.0) return 1.0;
  if (squared_narrow == 0.0 || squared_wide == 0.0) return 0.0;
  return product / std::sqrt(squared_narrow) / std::sqrt(squared_wide);
}

NumberDifference difference(const torch::Tensor& narrow, const torch::Tensor& wide) {
  // On the CPU: what comes from a device is for sampled steps.
  const auto on_cpu = torch::TensorOptions(torch::kCPU).dtype(torch::kFloat);
  const torch::Tensor b = wide.detach().to(on_cpu).contiguous();
  const auto beside = [&]<typename Narrow>(const torch::Tensor& a) {
    return dense_difference(a.const_data_ptr<Narrow>(), b.const_data_ptr<float>(), a.numel());
  };
  if (is_half(narrow.scalar_type())) {  // widened block by block: a copy would cost more
    const torch::Tensor a = narrow.detach().to(torch::kCPU).contiguous();
    return a.scalar_type() == torch::kHalf ? beside.operator()<at::Half>(a)
                                           : beside.operator()<at::BFloat16>(a);
  }
  return beside.operator()<float>(narrow.detach().to(on_cpu).contiguous());
}

}  // namespace halftone
