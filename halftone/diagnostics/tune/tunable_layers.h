// SPDX-License-Identifier: Apache-2.0
// The linear layers of a training step whose format can be chosen.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "halftone/train/mixed_precision.h"
#include "halftone/train/step_replay.h"

namespace halftone {

/// Layers that are multiplied as one: a halftone::Linear, or several by merged_linear(), or the
/// output head.
struct TunableLayer {
  std::string name;                         // "layers.0.attention.wq+wk+wv"
  std::vector<std::string> modules;         // their paths
  std::vector<torch::Tensor> weights;       // (out, in) each
  std::int64_t rows = 0;                    // of x in the step, over all calls
  torch::ScalarType input = torch::kFloat;  // dtype of x
  bool is_head = false;
  std::int64_t multiply_adds() const;  // of y, in the step
};

/// Those of the step in the order in which it computes them, by looking at one forward pass of it.
/// Left out are layers that keep_fp32() has marked, that got no rows, and whose weight is not that
/// of a module with a format of its own (train/layer_precision.h).
std::vector<TunableLayer> tunable_layers(const TrainingStep& step, const MixedPrecision& precision);

}  // namespace halftone
