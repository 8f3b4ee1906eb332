// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "halftone/train/optimizer_context.h"
#include "halftone/train/training_module.h"

namespace halftone {

/// What configure_optimizers() of `module` returns: one optimizer or more. Throws UserError for one
/// that lacks a part of what the context asks for. LibTorch's optimizers have no part; one is let
/// through where stochastic rounding is all that it lacks.
std::vector<OptimizerSetup> configured_optimizers(TrainingModuleBase& module,
                                                  const OptimizerContext& context);

}  // namespace halftone
