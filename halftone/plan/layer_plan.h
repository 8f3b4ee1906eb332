// SPDX-License-Identifier: Apache-2.0
// The linear layers of a model that is not built yet.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/models/causal_lm.h"
#include "halftone/models/model_config.h"
#include "halftone/precision/policy.h"

namespace halftone {

/// A model of the same modules as that of `config` with the adapters of `lora`, but of the smallest
/// widths: their paths and classes are what a pattern matches.
CausalLM smallest_model(const ModelConfig& config, const LoraConfig& lora = {});

/// layer_types() of the model of `config` (train/layer_precision.h).
std::map<std::string, ComputeType> planned_layer_types(const ModelConfig& config,
                                                       const std::vector<std::string>& texts,
                                                       const PrecisionPolicy& policy,
                                                       const LoraConfig& lora = {});

/// One linear layer of a forward pass.
struct PlannedLayer {
  std::string path;
  double multiply_adds = 0;  // for each row of the batch; an expert's is its share of the rows
};

/// All of them but the output head, whose path is head_path(config).
std::vector<PlannedLayer> planned_layers(const ModelConfig& config);

}  // namespace halftone
