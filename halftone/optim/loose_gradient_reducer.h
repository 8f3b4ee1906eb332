// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <vector>

#include "halftone/core/process_group.h"
#include "halftone/optim/gradient_sum.h"

namespace halftone {

/// Makes the gradients of `parameters`, which stand in .grad as those of LibTorch's optimizers do,
/// the sums over all processes. Waits. A parameter that has a gradient on any process has one on
/// all. Throws UserError for sparse gradients.
void reduce_gradients(const std::vector<torch::Tensor>& parameters, ProcessGroup& group,
                      GradientTransport transport = GradientTransport::kExact);

}  // namespace halftone
