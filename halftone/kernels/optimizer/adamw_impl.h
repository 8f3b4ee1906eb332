// SPDX-License-Identifier: Apache-2.0
// The interface between adamw.cpp and adamw_cpu.cpp. It is free of LibTorch, so the loops compile
// quickly.
#pragma once

#include <cstdint>

#include "halftone/kernels/common/simd_impl.h"

namespace halftone {

/// How the moments are stored.
enum class MomentType { kFloat, kBFloat16, kInt8 };
/// The bits of a bfloat16 weight's master that are stored beside it.
enum class MasterBits { kNone, k8, k16 };

struct AdamWConstants {
  float gradient_factor;
  float decay;            // 1 - lr * weight_decay
  float first_weight;     // 1 - beta1
  float second_keep;      // beta2
  float second_weight;    // 1 - beta2
  float step_size;        // lr / (1 - beta1^t)
  float root_correction;  // sqrt(1 - beta2^t)
  float eps;
  float least_root;  // of exp_avg_sq beside an exp_avg of 1; of 8-bit moments
  bool stochastic_rounding;
  // Of the random bits, for these 2^32 indices.
  std::uint32_t key[2];
  std::uint32_t moment_key[2];
};

struct AdamWRange {
  void* weights;
  const void* gradients;
  void* exp_avg;
  void* exp_avg_sq;
  float* exp_avg_scale;  // of 8-bit moments, which begin at a block
  float* exp_avg_sq_scale;
  void* master_low;
  std::int64_t size;
  std::uint32_t first_index;  // low half; the range stays within 2^32 indices
  KernelType type;
  KernelType gradient_type;  // type, or fp32
  MomentType moments;
  MasterBits master;  // with bfloat16 weights
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
