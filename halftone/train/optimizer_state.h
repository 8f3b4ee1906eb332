// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <vector>

#include "halftone/core/state_dict.h"

namespace halftone {

/// The state of any optimizer, for a checkpoint: a fused one's by name; for LibTorch's own the
/// bytes of its archive, as the tensor "archive" (uint8), which every one of them reads back
/// exactly.
StateDict optimizer_state(const torch::optim::Optimizer& optimizer);

/// Throws UserError when `state` was saved by another kind of optimizer, or does not fit this one's
/// parameters.
void load_optimizer_state(torch::optim::Optimizer& optimizer, const StateDict& state);

/// The parameters of all groups, in their order.
std::vector<torch::Tensor> parameters_of(const torch::optim::Optimizer& optimizer);
/// The gradients that a step would take now, in the order of the parameters; undefined where a
/// parameter has none. They share memory with .grad.
std::vector<torch::Tensor> gradients_of(const torch::optim::Optimizer& optimizer);
/// Forgets them. A fused optimizer's stay where they are, LibTorch's optimizers free theirs.
void zero_grad(torch::optim::Optimizer& optimizer);

/// The gradients of a step that has begun, for a checkpoint: by the parameter's number.
StateDict gradient_state(const torch::optim::Optimizer& optimizer);
/// Throws UserError where `state` has a gradient of another shape or of no parameter.
void load_gradient_state(torch::optim::Optimizer& optimizer, const StateDict& state);

}  // namespace halftone
