// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>
#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <string>

namespace halftone {

/// Where the inf or nan in the result of `forward`, a pass through `module`, comes from: the first
/// weight that holds one, else the operation that made it. Computes `forward` again. For a message.
std::string origin_of_non_finite(const torch::nn::Module& module,
                                 const std::function<torch::Tensor()>& forward);

struct BatchLoss {
  std::int64_t index = 0;  // of the batch, from 0
  double loss = 0;
};
/// The message of a batch whose loss is not finite, with where that comes from.
std::string non_finite_loss(const BatchLoss& batch, const torch::nn::Module& module,
                            const std::function<torch::Tensor()>& forward);

}  // namespace halftone
