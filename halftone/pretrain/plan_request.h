// SPDX-License-Identifier: Apache-2.0
// A configuration as the plan takes it.
#pragma once

#include <torch/types.h>

#include "halftone/models/model_config.h"
#include "halftone/plan/run_plan.h"
#include "halftone/pretrain/train_config.h"

namespace halftone {

/// The model that `config` trains. Reads no data: an unset vocabulary is that of the tokenizer, or
/// the most that a tokenizer trained on the data would have. Throws UserError.
ModelConfig planned_model(const TrainConfig& config);

/// The run of `model` that `config` describes.
PlanRequest plan_request(const TrainConfig& config, const ModelConfig& model);

/// Whether config.memory_budget limits a run on `device`: plans know the memory of the CPU.
bool is_memory_limited(const TrainConfig& config, torch::Device device);

/// check_memory() of a run on the CPU, unless config.memory_budget is "unlimited".
void check_memory_budget(const TrainConfig& config, const ModelConfig& model);

}  // namespace halftone
