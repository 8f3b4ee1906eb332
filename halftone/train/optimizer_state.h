// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/optim/optimizer.h>

#include "halftone/core/state_dict.h"

namespace halftone {

/// The state of any optimizer, for a checkpoint: AdamW's by name; for LibTorch's own the bytes of
/// its archive, as the tensor "archive" (uint8), which every one of them reads back exactly.
StateDict optimizer_state(const torch::optim::Optimizer& optimizer);

/// Throws UserError when `state` was saved by another kind of optimizer, or does not fit this one's
/// parameters.
void load_optimizer_state(torch::optim::Optimizer& optimizer, const StateDict& state);

}  // namespace halftone
