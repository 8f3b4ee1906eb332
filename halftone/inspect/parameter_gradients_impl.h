// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <vector>

namespace halftone {

/// d loss / d each of network.parameters(), in their order; undefined where a parameter does not
/// learn or `loss`, one element, does not depend on it. The .grad of parameters are left alone.
std::vector<torch::Tensor> parameter_gradients(const torch::nn::Module& network,
                                               const torch::Tensor& loss);

}  // namespace halftone
