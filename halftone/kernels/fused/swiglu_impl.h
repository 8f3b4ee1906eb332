// SPDX-License-Identifier: Apache-2.0
// The interface between swiglu.cpp and swiglu_cpu.cpp. It is free of LibTorch, so the loops compile
// quickly.
#pragma once

#include <cstdint>

#include "halftone/kernels/common/simd_impl.h"

namespace halftone {

/// Dense rows: gate_up (2 width), out (width).
struct SwigluRows {
  const void* gate_up;
  void* out;
  std::int64_t width;
  KernelType type;
};

void swiglu_rows(const SwigluRows& rows, std::int64_t begin, std::int64_t end);

/// Dense rows: gate_up and its gradient (2 width), d_out and out (width).
struct SwigluGradRows {
  const void* gate_up;
  const void* d_out;
  void* d_gate_up;
  void* out;  // the forward's result once more, or null
  std::int64_t width;
  KernelType type;
};

void swiglu_grad_rows(const SwigluGradRows& rows, std::int64_t begin, std::int64_t end);

}  // namespace halftone
