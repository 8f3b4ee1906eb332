// SPDX-License-Identifier: Apache-2.0
// What the machine does at most, measured now with the threads that LibTorch has: what an
// operation's speed is compared with.
#pragma once

#include <torch/types.h>

#include <map>
#include <set>

namespace halftone {

struct MachinePeaks {
  /// By the dtype of a matmul's operands. fp32 on a CPU: multiply-adds from registers alone
  /// (peak_fp32_gflops()), which a matmul comes near to. All else: the fastest of several matmuls
  /// of 1024 x 1024 x 1024, by the way that cpu_gemm_config() names; a shape that suits the machine
  /// better may be a little faster.
  std::map<torch::ScalarType, double> flops_per_s;
  double bytes_per_s = 0;  // read and written: the triad of STREAM, on a GPU a copy of 256 MiB
};

/// Measures for about a fifth of a second per dtype; leaves out a dtype that the device does not
/// multiply.
MachinePeaks measure_peaks(const std::set<torch::ScalarType>& dtypes, torch::Device device);

}  // namespace halftone
