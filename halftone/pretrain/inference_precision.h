// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "halftone/kernels/linear/compute_context.h"
#include "halftone/models/causal_lm.h"
#include "halftone/nn/stored_weights.h"
#include "halftone/train/mixed_precision.h"

namespace halftone {

/// What a trained model is computed in, and what its weights are held in.
struct InferencePrecision {
  PrecisionPolicy policy;
  WeightStorage weights = WeightStorage::kFloat32;
  std::vector<std::string> layer_precision;  // formats of single layers (train/layer_precision.h)
};

/// The precision of a run, unless `precision` or `weights` ("fp32", "bf16", "fp16", "int8") is
/// given. Weights given alone are multiplied in 32-true: all but the weights is fp32. Throws
/// UserError where the precision would round such weights again.
InferencePrecision inference_precision(const std::string& run_precision,
                                       const std::optional<std::string>& precision,
                                       const std::optional<std::string>& weights);

/// A model made ready: converted, its weights packed. While this lives, forward passes in the
/// thread that made it read the weights as they are held.
class InferenceModel {
 public:
  /// Throws UserError for weights that the format does not hold. `model` must outlive this.
  InferenceModel(CausalLM& model, const InferencePrecision& choice, torch::Device device);

  const MixedPrecision& precision() const { return precision_; }
  WeightStorage weights() const { return weights_; }
  /// "weights in int8, 103 MiB (fp32: 397 MiB); computed in 32-true".
  std::string description() const;

 private:
  MixedPrecision precision_;
  WeightStorage weights_;
  std::uint64_t bytes_ = 0;
  std::uint64_t fp32_bytes_ = 0;
  std::optional<ComputeScope> scope_;
};

/// Notes what `model` is computed in and what its weights are held in, unless that is what
/// `run_precision` has.
void note_inference(const InferenceModel& model, const std::string& run_precision);

}  // namespace halftone
