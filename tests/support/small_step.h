// SPDX-License-Identifier: Apache-2.0
// The forward pass of a small model of this library in a named precision, on matmuls that are
// large enough for every library that multiplies them.
#pragma once

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <string>
#include <vector>

#include "halftone/core/dtype.h"
#include "halftone/core/random.h"
#include "halftone/kernels/gemm/gemm32.h"
#include "halftone/models/causal_lm.h"
#include "halftone/train/mixed_precision.h"
#include "support/gemm_config_scope.h"

namespace halftone::test {

struct StepKind {
  std::string precision;
  std::string ways;  // parse_cpu_gemm_config
  bool moe = false;
};

inline std::string name_of(const testing::TestParamInfo<StepKind>& info) {
  std::string name =
      info.param.precision + "_" + info.param.ways + (info.param.moe ? "_moe" : "_dense");
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
  return name;
}

/// Every precision on every way of its matmuls, and a mixture of experts on the two that differ
/// most.
inline std::vector<StepKind> all_step_kinds() {
  std::vector<StepKind> kinds;
  for (const std::string& precision : precision_names())
    for (const char* ways : {"blas,native", "onednn,native", "blas,upcast", "onednn,upcast"})
      for (const bool moe : {false, true}) {
        const bool half = is_half(parse_precision(precision).compute_dtype());
        if (!half && std::string(ways).ends_with("upcast")) continue;
        const bool extreme = std::string(ways) == "blas,native" ||
                             std::string(ways) == (half ? "onednn,upcast" : "onednn,native");
        if (!moe || extreme) kinds.push_back({precision, ways, moe});
      }
  return kinds;
}

inline ModelConfig small_config(bool moe, double dropout = 0.0) {
  return {.dim = 128,
          .n_layers = 2,
          .n_heads = 4,
          .n_kv_heads = 2,
          .vocab_size = 256,
          .max_seq_len = 64,
          .dropout = dropout,
          .use_moe = moe};
}

inline CausalLM small_model(bool moe, double dropout) {
  torch::manual_seed(7);
  return CausalLM(small_config(moe, dropout));
}

struct SmallStep {
  explicit SmallStep(const StepKind& kind, const MemoryPolicy& memory = {}, double dropout = 0.0)
      : ways(kind.ways),
        model(small_model(kind.moe, dropout)),
        precision(parse_precision(kind.precision), {}, torch::kCPU, memory),
        text(torch::randint(256, {3, 65})) {
    precision.convert_module(*model);
  }

  torch::Tensor loss(double factor = 1.0) {
    const auto region = precision.forward_context(/*pass=*/3, /*seed=*/5);
    const LossOutput out = model->loss(text.narrow(1, 0, 64).contiguous(),
                                       text.narrow(1, 1, 64).contiguous(), torch::ones({3, 64}));
    return precision.scaled(out.total() * factor);
  }

  void fill(const std::string& name, double value) {
    const torch::NoGradGuard no_grad;
    model->named_parameters()[name].fill_(value);
  }
  void multiply(const std::string& name, double factor) {
    const torch::NoGradGuard no_grad;
    model->named_parameters()[name].mul_(factor);
  }
  /// Nearly the largest number of the matmuls' format: a few of them have no finite sum.
  double huge() const { return precision.policy().compute == ComputeType::kFloat16 ? 6e4 : 3e38; }

  GemmConfigScope ways;
  CausalLM model;
  MixedPrecision precision;
  torch::Tensor text;  // ids
};

/// A case for each kind, on one thread, since nothing in it is large; those of oneDNN's fp32
/// matmul are left out where the CPU has none.
class EveryStepKind : public testing::TestWithParam<StepKind> {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    if (GetParam().ways.starts_with("onednn") && !has_onednn_gemm32())
      GTEST_SKIP() << "LibTorch lends no fp32 matmul of oneDNN on this CPU";
  }
};

}  // namespace halftone::test
