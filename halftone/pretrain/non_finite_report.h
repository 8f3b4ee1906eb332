// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <functional>
#include <string>

namespace halftone {

/// Where the inf or nan in the result of `forward`, a pass through `module`, comes from: the first
/// weight that holds one, else the operation that made it. Computes `forward` again. For a message.
std::string origin_of_non_finite(const torch::nn::Module& module,
                                 const std::function<torch::Tensor()>& forward);

}  // namespace halftone
