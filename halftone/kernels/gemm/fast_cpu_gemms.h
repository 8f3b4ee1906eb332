// SPDX-License-Identifier: Apache-2.0
// 16-bit matrix products of any LibTorch program on a CPU that has no instructions for them.
#pragma once

namespace halftone {

/// From now on, in the whole process, LibTorch's mm, addmm, bmm, baddbmm and _addmm_activation
/// (also with out= and in place) and its fused attention on the CPU take the way that
/// matmul_paths() names when their operands are bf16 or fp16: kNative is LibTorch's own kernel,
/// kWidened widens the operands exactly, computes in fp32 and rounds once. Products too small to
/// gain stay native, and attention where the products are. Other dtypes, devices and layouts, and
/// all of autograd and autocast, stay as they are. The environment variable HALFTONE_CPU_GEMM=off
/// leaves LibTorch untouched. Returns whether the products are replaced; throws UserError for a
/// value that is neither on (1) nor off (0). Thread-safe; calling it again, or loading
/// libhalftone_cpu_gemm.so as well, changes nothing.
bool use_fast_cpu_gemms();

/// In its scope, this thread computes with LibTorch's own kernels.
class OriginalCpuGemms {
 public:
  OriginalCpuGemms();
  ~OriginalCpuGemms();
  OriginalCpuGemms(const OriginalCpuGemms&) = delete;
  OriginalCpuGemms& operator=(const OriginalCpuGemms&) = delete;

 private:
  bool before_;
};

}  // namespace halftone
