// SPDX-License-Identifier: Apache-2.0
// The interface between rms_norm.cpp and rms_norm_cpu.cpp. It is free of LibTorch, so the loops
// compile quickly.
#pragma once

#include <cstdint>

#include "halftone/kernels/common/simd_impl.h"

namespace halftone {

/// Rows of `width` elements of `type`, dense. The sum x + branch is what is normed. `normed_type`
/// is `type` or `branch_type`.
struct RmsNormRows {
  const void* x;
  const void* branch;  // of branch_type, or null
  const void* weight;  // (width)
  void* sum;           // null without a branch
  void* normed;        // of normed_type
  float* inverse_rms;  // one for each row
  std::int64_t width;
  float eps;
  KernelType type;
  KernelType branch_type;
  KernelType normed_type;
};

void rms_norm_rows(const RmsNormRows& rows, std::int64_t begin, std::int64_t end);

struct RmsNormGradRows {
  const void* sum;
  const void* weight;
  const float* inverse_rms;
  const void* d_normed;  // of normed_type
  const void* d_sum;     // the gradient that reaches the sum from elsewhere, or null
  void* d_x;
  void* d_branch;  // of branch_type, or null
  std::int64_t width;
  KernelType type;
  KernelType branch_type;
  KernelType normed_type;
};

/// Adds the rows' part of the weight's gradient to d_weight (width).
void rms_norm_grad_rows(const RmsNormGradRows& rows, std::int64_t begin, std::int64_t end,
                        float* d_weight);

}  // namespace halftone
