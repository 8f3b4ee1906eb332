// SPDX-License-Identifier: Apache-2.0
// The fp32 that a training step keeps in memory, and what would make it smaller.
#pragma once

#include <vector>

#include "halftone/diagnostics/profile/live_tensors_impl.h"
#include "halftone/diagnostics/profile/step_profile.h"

namespace halftone {

/// By kind, module and, of `activations`, operation; the largest first.
std::vector<Fp32Tensors> fp32_tensors(const torch::nn::Module& network,
                                      const Optimizers& optimizers, const MixedPrecision& precision,
                                      const std::vector<LiveTensor>& activations);

}  // namespace halftone
