// SPDX-License-Identifier: Apache-2.0
// Hints about the chosen precision before a run begins: it gains nothing, another one is free, or
// something keeps the hardware from being fast.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/precision/policy.h"
#include "halftone/system/processor.h"

namespace halftone {

/// A weight that takes part in matmuls.
struct WeightShape {
  std::string name;
  std::int64_t in = 0;  // of a convolution: input channels of a group
  std::int64_t out = 0;
};

struct HintInputs {
  PrecisionPolicy policy;
  torch::DeviceType device = torch::kCPU;
  std::int64_t parameters = 0;  // shared ones once
  std::int64_t batch_size = 0;  // rows of a layer's input; 0: not known
  std::vector<WeightShape> widths;
  bool has_torch_linear = false;  // a torch::nn::Linear takes LibTorch's matmuls, not ours

  int compute_capability = 0;  // of the GPU, 86 for 8.6
  CpuFeatures cpu;
  CpuGemmConfig matmuls;  // measured, on the CPU
};

/// The facts about training `module` with `policy` on `device`. Where 16-bit matmuls on the CPU
/// come into it, the first call may measure them (cpu_gemm_config()).
HintInputs collect_hint_inputs(const torch::nn::Module& module, const PrecisionPolicy& policy,
                               torch::Device device, std::int64_t batch_size);

/// One sentence for each rule that applies; none for "32-true". A pure function.
std::vector<std::string> precision_hints(const HintInputs& facts);

/// Says them with log_note, each at most once in this process.
void log_hints(const std::vector<std::string>& sentences);

}  // namespace halftone
