// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>

#include <string>

#include "halftone/core/state_dict.h"

namespace halftone {

/// Of a checkpoint whose model.safetensors holds an average of the weights: the weights that
/// training goes on from, among the trainer's tensors.
inline constexpr const char* kTrainedWeights = "trained_weights.";

/// The parameters and buffers by name; they share their storage with the module.
StateDict network_state(const torch::nn::Module& module);

/// Copies them back, one at a time where they are lazy. Throws UserError naming what is missing,
/// unexpected or of another shape, and leaves the module as it was; `source` stands in the message.
void load_network_state(torch::nn::Module& module, const StateDict& state,
                        const std::string& source);

}  // namespace halftone
