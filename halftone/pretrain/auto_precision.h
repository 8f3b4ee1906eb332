// SPDX-License-Identifier: Apache-2.0
// precision = "auto": the fastest precision on this machine whose gradients are right.
#pragma once

#include <string>
#include <vector>

#include "halftone/precision/memory_policy.h"
#include "halftone/pretrain/pretrain_inputs.h"
#include "halftone/pretrain/train_config.h"

namespace halftone {

/// The precisions that "auto" chooses from: those of fp32 weights that go with `memory`, the finest
/// first.
std::vector<std::string> choosable_precisions(const MemoryOptions& memory);

/// `config` with the precision that choose_precision() takes for its model and its first batch,
/// where it says "auto"; a note says which and why. Of the choosable
/// ones those take part that fit into the run's memory budget and that the device computes itself.
/// Throws UserError where none does, and where the measurement would not fit.
TrainConfig with_chosen_precision(const TrainConfig& config, const PretrainInputs& inputs,
                                  const PreparationProgress& progress = {});

}  // namespace halftone
