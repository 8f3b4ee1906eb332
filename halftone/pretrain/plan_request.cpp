// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/plan_request.h"

#include "halftone/core/device.h"
#include "halftone/tokenizer/tokenizer.h"

namespace halftone {

ModelConfig planned_model(const TrainConfig& config) {
  ModelConfig model = config.model;
  if (model.vocab_size == 0)
    model.vocab_size = config.tokenizer.empty() ? config.tokenizer_vocab_size
                                                : Tokenizer::load(config.tokenizer).vocab_size();
  validate(model);
  return model;
}

PlanRequest plan_request(const TrainConfig& config, const ModelConfig& model) {
  return {.model = model,
          .shape = {.batch_size = config.batch_size,
                    .predictions = config.seq_len - (config.pack ? 0 : 1),
                    .micro_batches = config.accumulate},
          .precision = config.precision,
          .layer_precision = config.layer_precision,
          .memory = config.memory,
          .budget_bytes = budget_bytes(config.memory_budget),
          .lora = config.lora};
}

bool is_memory_limited(const TrainConfig& config, torch::Device device) {
  return config.memory_budget != "unlimited" && device.is_cpu();
}

void check_memory_budget(const TrainConfig& config, const ModelConfig& model) {
  // What a precision that is not chosen yet takes, its choice asks.
  if (config.precision == kAutoPrecision) return;
  if (!is_memory_limited(config, resolve_device(config.device))) return;
  check_memory(plan_request(config, model));
}

}  // namespace halftone
