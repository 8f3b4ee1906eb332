// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>

namespace halftone {

/// Moves the parameters of `module` that are on the CPU into one buffer on large pages
/// (system/large_pages.h), contiguous, values and dtypes unchanged: those that need no gradient
/// first, each kind in the order of parameters(). For inference, where each token reads all weights
/// once. What shares storage with a parameter (an optimizer's flat weights, a view) keeps the old
/// storage: do this before such a thing exists.
void pack_parameters(torch::nn::Module& module);

/// The same for those that need no gradient: beside an optimizer's buffers, which have the others.
void pack_frozen_parameters(torch::nn::Module& module);

}  // namespace halftone
