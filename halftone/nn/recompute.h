// SPDX-License-Identifier: Apache-2.0
// Activations that are computed twice instead of kept (Chen et al. 2016).
#pragma once

#include <torch/types.h>

#include <functional>
#include <vector>

namespace halftone {

/// Part of a model, as a function of defined tensors.
using CheckpointedFunction =
    std::function<std::vector<torch::Tensor>(const std::vector<torch::Tensor>& inputs)>;

/// block(inputs), for whose backward pass nothing is kept but `inputs`: the block runs a second
/// time then, with the autocast, ComputeContext and state of LibTorch's default generators of the
/// first, so that values and gradients are those of block(inputs) to the bit. `parameters` are all
/// that it differentiates beside its inputs; they get their gradients as in any backward pass,
/// autograd::grad() included. What else the block reads must stand as it is until then.
/// Differentiable once. Where gradients are off: block(inputs). Where processes keep a part of the
/// weights each, those of `parameters` are in memory while the block runs, and no longer
/// (docs/many_processes.md): whatever reads them otherwise reads zeros, in train and in eval mode,
/// and each pass runs the same blocks in the same order.
std::vector<torch::Tensor> recompute(const CheckpointedFunction& block,
                                     const std::vector<torch::Tensor>& inputs,
                                     const std::vector<torch::Tensor>& parameters);

}  // namespace halftone
