// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <memory>

#include "halftone/kernels/linear/stored_weights.h"

namespace halftone {

/// Holds the weights of every Linear, Embedding and LmHead of halftone's in `module` in `storage`
/// from now on, for inference under a ComputeContext with the result as its stored_weights. All
/// other parameters stay as they are. On the CPU the weights lie in one buffer on large pages, as
/// after pack_parameters(), in the order of parameters(). Throws UserError, which names the
/// parameter, for a value that the format does not hold.
std::shared_ptr<const StoredWeights> store_weights(torch::nn::Module& module,
                                                   WeightStorage storage);

/// What the parameters of `module` take.
std::uint64_t parameter_bytes(const torch::nn::Module& module);

}  // namespace halftone
