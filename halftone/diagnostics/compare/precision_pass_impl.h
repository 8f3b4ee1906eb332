// SPDX-License-Identifier: Apache-2.0
// A training step in one precision, with all of its tensors.
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "halftone/diagnostics/compare/rounding_noise_impl.h"
#include "halftone/diagnostics/compare/step_capture_impl.h"
#include "halftone/precision/policy.h"
#include "halftone/train/step_replay.h"

namespace halftone {

using TensorKey = std::pair<ComparedKind, std::string>;

struct PrecisionPass {
  double loss = 0;   // without the scale
  double scale = 1;  // that the gradients carry
  std::vector<CapturedTensor> tensors;
  std::vector<std::string> kept;  // parameters that were kept in fp32

  std::map<TensorKey, const CapturedTensor*> by_key() const;
};

struct PassOptions {
  PrecisionPolicy policy;
  double scale = 1;
  std::vector<std::string> keep_fp32;
  std::vector<std::string> layer_precision;
  torch::Device device = torch::kCPU;
  std::uint64_t draw = 0;  // of the random rounding (TrainingStep)
};

/// Leaves the network as it was.
PrecisionPass compute_pass(const TrainingStep& step, const PassOptions& options);

/// What the passes with rounding noise round, as the judged precision did.
struct NoisePlan {
  StoredFormats stored;
  std::map<std::string, NumberFormat> parameters;  // that it rounds, by name
};
/// `with_random_rounding`: also what the precision rounds at random.
NoisePlan noise_plan(torch::nn::Module& network, const PrecisionPass& judged,
                     const PassOptions& options, bool with_random_rounding);

/// compute_pass() as if its numbers had the mantissas of the plan's formats.
PrecisionPass compute_noisy_pass(const TrainingStep& step, const PassOptions& options,
                                 const NoisePlan& plan, RoundingNoise& noise);

}  // namespace halftone
