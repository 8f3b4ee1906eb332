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

/// How many processes train together.
struct PlannedProcesses {
  std::int64_t all = 1;
  std::int64_t on_this_host = 1;  // these share the memory that is available
};

/// The run of `model` that `config` describes, of one of the processes: a memory_budget of
/// "available" is its part of the host's memory, any other budget its own.
PlanRequest plan_request(const TrainConfig& config, const ModelConfig& model,
                         const PlannedProcesses& processes = {});

/// Whether config.memory_budget limits a run on `device`: plans know the memory of the CPU.
bool is_memory_limited(const TrainConfig& config, torch::Device device);

/// check_memory() of a run on the CPU, unless config.memory_budget is "unlimited". Knows from its
/// launcher with how many processes this one trains.
void check_memory_budget(const TrainConfig& config, const ModelConfig& model);

}  // namespace halftone
