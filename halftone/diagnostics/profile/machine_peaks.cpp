// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/profile/machine_peaks.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

#include "halftone/core/device.h"
#include "halftone/core/dtype.h"
#include "halftone/core/random.h"
#include "halftone/core/stopwatch.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/gemm_half.h"
#include "halftone/kernels/gemm/int8_gemm.h"
#include "halftone/machine/speed.h"

namespace halftone {
namespace {

constexpr std::int64_t kPeakSize = 1024;

/// Seconds of the fastest of several runs, the first of which does not count.
template <class Work>
double fastest(torch::Device device, const Work& work) {
  constexpr double kEnough = 0.15;
  constexpr int kLeast = 3;
  double best = std::numeric_limits<double>::infinity(), all = 0;
  work();
  for (int i = 0; i < kLeast || all < kEnough; ++i) {
    synchronize(device);
    const double seconds = seconds_of_call([&] {
      work();
      synchronize(device);
    });
    best = std::min(best, seconds);
    all += seconds;
  }
  return best;
}

double matmul_seconds(torch::ScalarType dtype, torch::Device device) {
  const torch::Tensor a = at::randn({kPeakSize, kPeakSize}, torch::device(device));
  const torch::Tensor b = at::randn({kPeakSize, kPeakSize}, torch::device(device));
  if (dtype == torch::kChar) {
    const Int8Matrix left = quantize_left(a, {}), right = quantize_right(b, {});
    const torch::Tensor into = at::zeros({kPeakSize, kPeakSize}, a.options());
    return fastest(device, [&] { int8_gemm(left, right, into); });
  }
  const torch::Tensor x = a.to(dtype), y = b.to(dtype);
  if (device.is_cpu() && is_half(dtype)) {
    const GemmBackend path = cpu_gemm_config().of(dtype).forward;
    return fastest(device, [&] { gemm_half(x, y, dtype, path); });
  }
  return fastest(device, [&] { at::mm(x, y); });
}

double copy_bytes_per_s(torch::Device device) {
  const torch::Tensor from = at::zeros({std::int64_t{32} << 20U}, torch::device(device));
  torch::Tensor to = at::zeros({std::int64_t{32} << 20U}, torch::device(device));
  return 2.0 * static_cast<double>(from.nbytes()) / fastest(device, [&] { to.copy_(from); });
}

}  // namespace

MachinePeaks measure_peaks(const std::set<torch::ScalarType>& dtypes, torch::Device device) {
  const torch::NoGradGuard no_grad;
  const GeneratorScope generators(device, rng_state(device));
  constexpr double kFlops = 2.0 * kPeakSize * kPeakSize * kPeakSize;
  MachinePeaks peaks;
  for (const torch::ScalarType dtype : dtypes) {
    if (dtype == torch::kFloat && device.is_cpu()) {
      peaks.flops_per_s[dtype] = 1e9 * peak_fp32_gflops();
      continue;
    }
    try {
      peaks.flops_per_s[dtype] = kFlops / matmul_seconds(dtype, device);
    } catch (const c10::Error&) {  // no such matmul here
    }
  }
  peaks.bytes_per_s = device.is_cpu() ? triad_bytes_per_s() : copy_bytes_per_s(device);
  return peaks;
}

}  // namespace halftone
