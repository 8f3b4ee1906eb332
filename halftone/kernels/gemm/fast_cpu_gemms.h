// SPDX-License-Identifier: Apache-2.0
// 16-bit matmuls of any LibTorch program on a CPU that has no instructions for them.
#pragma once

#include <string>
#include <string_view>

namespace halftone {

/// From now on, in the whole process, LibTorch's mm, addmm, bmm, baddbmm and _addmm_activation
/// (also with out= and in place), its convolutions, its fused attention, oneDNN's layer of an LSTM
/// and the gradients of all these take the path that cpu_gemm_config() names, on the CPU, when
/// their operands are bf16 or fp16: kNative is LibTorch's own kernel, kUpcast upcasts the operands
/// exactly, computes in fp32 and rounds once. Matmuls too small to gain stay native (with
/// HALFTONE_CPU_GEMM=all none does), and attention where the matmuls are. Shapes, strides, errors,
/// other dtypes, devices and layouts, autograd and autocast stay as they are.
/// HALFTONE_CPU_GEMM=off leaves LibTorch untouched. Returns whether the matmuls are replaced;
/// throws UserError for another value than on (1), off (0) and all. Thread-safe; calling it again,
/// or loading libhalftone_cpu_gemm.so as well, changes nothing.
bool use_fast_cpu_gemms();

/// In the process from now on, once use_fast_cpu_gemms() has replaced the matmuls: `word` is on,
/// off or all, as in HALFTONE_CPU_GEMM, unless that is set, which goes first. For configurations.
/// Throws UserError for any other word.
void configure_fast_cpu_gemms(std::string_view word);
/// The word in force.
std::string fast_cpu_gemms();

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
