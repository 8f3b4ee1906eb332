// SPDX-License-Identifier: Apache-2.0
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "halftone/probe/number_difference_impl.h"

namespace halftone {
namespace {

constexpr std::int64_t kBlock = 1024;
constexpr std::size_t kLanes = 16;

template <typename Sum>
double total(const std::array<Sum, kLanes>& lanes) {
  double sum = 0.0;
  for (const Sum lane : lanes) sum += lane;
  return sum;
}

/// Of at most kBlock numbers. Each lane adds up on its own, which a compiler turns into vectors.
template <typename Sum>
NumberDifference block_sums(const float* narrow, const float* wide, std::int64_t count) {
  std::array<Sum, kLanes> error{}, narrows{}, wides{}, product{};
  std::array<std::int32_t, kLanes> flushed{}, overflowed{};
  const auto add = [&](std::size_t lane, float y, float x) {
    constexpr float kLargest = std::numeric_limits<float>::max();
    const bool y_finite = std::abs(y) <= kLargest, x_finite = std::abs(x) <= kLargest;
    const Sum a = y_finite & x_finite ? y : 0.0F, b = y_finite & x_finite ? x : 0.0F;
    error[lane] += (a - b) * (a - b);
    narrows[lane] += a * a;
    wides[lane] += b * b;
    product[lane] += a * b;
    flushed[lane] += (y == 0.0F) & (x != 0.0F);
    overflowed[lane] += !y_finite & x_finite;
  };
  std::int64_t i = 0;
  for (; i + static_cast<std::int64_t>(kLanes) <= count; i += kLanes)
    for (std::size_t lane = 0; lane < kLanes; ++lane)
      add(lane, narrow[i + static_cast<std::int64_t>(lane)],
          wide[i + static_cast<std::int64_t>(lane)]);
  for (; i < count; ++i) add(0, narrow[i], wide[i]);
  return {.numbers = count,
          .flushed = static_cast<std::int64_t>(total(flushed)),
          .overflowed = static_cast<std::int64_t>(total(overflowed)),
          .squared_error = total(error),
          .squared_narrow = total(narrows),
          .squared_wide = total(wides),
          .product = total(product)};
}

/// In fp32, unless squares overflow it.
NumberDifference block_difference(const float* narrow, const float* wide, std::int64_t count) {
  const NumberDifference sums = block_sums<float>(narrow, wide, count);
  const bool is_finite =
      std::isfinite(sums.squared_error + sums.squared_narrow + sums.squared_wide + sums.product);
  return is_finite ? sums : block_sums<double>(narrow, wide, count);
}

NumberDifference dense_difference(const float* narrow, const float* wide, std::int64_t count) {
  return at::parallel_reduce(
      0, (count + kBlock - 1) / kBlock, /*grain_size=*/32, NumberDifference(),
      [&](std::int64_t begin, std::int64_t end, NumberDifference total) {
        for (std::int64_t block = begin; block < end; ++block) {
          const std::int64_t at = block * kBlock;
          total += block_difference(narrow + at, wide + at, std::min(kBlock, count - at));
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
  const torch::Tensor a = narrow.detach().to(on_cpu).contiguous();
  const torch::Tensor b = wide.detach().to(on_cpu).contiguous();
  return dense_difference(a.const_data_ptr<float>(), b.const_data_ptr<float>(), a.numel());
}

}  // namespace halftone
