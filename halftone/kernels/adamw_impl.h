// SPDX-License-Identifier: Apache-2.0
// What adamw.cpp and adamw_cpu.cpp agree on; free of LibTorch, so that the loops compile quickly.
#pragma once

#include <cstdint>

#include "halftone/kernels/simd_impl.h"

namespace halftone {

struct AdamWConstants {
  float gradient_factor;
  float decay;            // 1 - lr * weight_decay
  float first_weight;     // 1 - beta1
  float second_keep;      // beta2
  float second_weight;    // 1 - beta2
  float step_size;        // lr / (1 - beta1^t)
  float root_correction;  // sqrt(1 - beta2^t)
  float eps;
  bool stochastic_rounding;
  std::uint32_t key[2];  // of the random bits, for these 2^32 indices
};

struct AdamWRange {
  void* weights;
  const void* gradients;
  float* exp_avg;
  float* exp_avg_sq;
  std::int64_t size;
  std::uint32_t first_index;  // low half; the range stays within 2^32 indices
  KernelType type;
};

void adamw_range(const AdamWRange& range, const AdamWConstants& constants);

/// The random bits for index `index`: two rounds of multiply and xor-shift (constants of C.
/// Wellons' lowbias32), keyed before each.
inline std::uint32_t rounding_bits(std::uint32_t index, const std::uint32_t (&key)[2]) {
  std::uint32_t x = index ^ key[0];
  x = (x ^ (x >> 16U)) * 0x7FEB352DU + key[1];
  x = (x ^ (x >> 15U)) * 0x846CA68BU;
  return x ^ (x >> 16U);
}

struct SquareSum {
  double sum;
  std::int64_t non_finite;
};

/// Of `size` elements, in fp64 and in an order that depends on `size` alone.
SquareSum sum_of_squares(const void* elements, std::int64_t size, KernelType type);

}  // namespace halftone
