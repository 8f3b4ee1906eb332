// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <functional>
#include <string>
#include <vector>

namespace halftone {

enum class AutocastFault {
  kError,     // it threw
  kResult,    // an output of a wrong dtype or shape, a gradient that is missing
  kOverflow,  // inf or nan where fp32 has neither
  kAccuracy,  // further from fp32 than the rounding of inputs and results explains
};

struct AutocastFinding {
  torch::ScalarType dtype = torch::kHalf;  // of the region
  std::string inputs;                      // "fp32 inputs", "first input fp16", "all inputs fp16"
  std::string where;                       // "forward", "output 0", "gradient of input 1"...
  AutocastFault fault = AutocastFault::kError;
  std::string message;
};

struct AutocastMeasurement {
  torch::ScalarType dtype = torch::kHalf;
  std::string inputs;
  std::string where;
  double error = 0.0;    // |x - x_fp32| / |x_fp32| of the whole tensor
  double allowed = 0.0;  // more is a finding
};

struct AutocastReport {
  std::vector<AutocastFinding> findings;
  std::vector<AutocastMeasurement> measurements;

  bool safe() const { return findings.empty(); }
  /// The findings, one a line, then the measurements.
  std::string to_string() const;
};

struct AutocastCheckOptions {
  std::vector<torch::ScalarType> dtypes = {torch::kBFloat16, torch::kHalf};
  /// Rounding steps in a row that `fn` may make: allowed = 2 (error of fp32 on rounded inputs) +
  /// roundings * (half of the format's epsilon).
  double roundings = 8.0;
};

using TensorsFunction =
    std::function<std::vector<torch::Tensor>(const std::vector<torch::Tensor>&)>;
using TensorFunction = std::function<torch::Tensor(const std::vector<torch::Tensor>&)>;

/// Runs `fn` on `inputs` in fp32, then under autocast with fp16 and bf16, forward inside the region
/// and backward outside it, its floating inputs being fp32, the first 16-bit (an activation and its
/// weights), and all 16-bit; every run is compared with fp32. `fn` must be deterministic and
/// differentiable in its floating inputs, which must be fp32; it is called with copies of them.
/// An operator that is wrong makes findings; one that throws in fp32 throws.
AutocastReport check_autocast_safe(const TensorFunction& fn,
                                   const std::vector<torch::Tensor>& inputs,
                                   const AutocastCheckOptions& options = {});
AutocastReport check_autocast_safe(const TensorsFunction& fn,
                                   const std::vector<torch::Tensor>& inputs,
                                   const AutocastCheckOptions& options = {});

}  // namespace halftone
