// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "halftone/optim/adamw.h"
#include "halftone/train/training_module.h"

namespace halftone {

/// What most transformers are trained with, for configure_optimizers(): a halftone::AdamW over all
/// parameters of `module` by name, which does what the run asks for (OptimizerContext::adamw());
/// its rate rises over `warmup` optimizer steps and falls along a half cosine to a tenth.
inline OptimizerSetup cosine_adamw(torch::nn::Module& module, const OptimizerContext& context,
                                   AdamWOptions options, std::int64_t warmup = 0) {
  return {
      std::make_shared<AdamW>(module.named_parameters().pairs(), context.adamw(std::move(options))),
      LrScheduleOptions{.kind = Schedule::kCosine, .warmup = static_cast<double>(warmup)}};
}

}  // namespace halftone
