// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/plan_request.h"

#include <limits>
#include <string>

#include "halftone/core/device.h"
#include "halftone/dist/process_place.h"
#include "halftone/tokenizer/tokenizer.h"

namespace halftone {
namespace {

AdamWShare share_of(const TrainConfig& config, std::int64_t processes) {
  if (processes == 1) return {};
  return {.processes = processes,
          .states = config.shard != "none",
          .gradients = config.shard == "gradients" || config.shard == "parameters",
          .weights = config.shard == "parameters",
          .transport = config.reduce_dtype == "bf16" ? GradientTransport::kBFloat16
                                                     : GradientTransport::kExact};
}

std::uint64_t budget_of_one(const std::string& memory_budget, std::int64_t on_this_host) {
  const std::uint64_t all = budget_bytes(memory_budget);
  if (memory_budget != "available" || all == std::numeric_limits<std::uint64_t>::max()) return all;
  return all / static_cast<std::uint64_t>(on_this_host);
}

}  // namespace

ModelConfig planned_model(const TrainConfig& config) {
  ModelConfig model = config.model;
  if (model.vocab_size == 0)
    model.vocab_size = config.tokenizer.empty() ? config.tokenizer_vocab_size
                                                : Tokenizer::load(config.tokenizer).vocab_size();
  validate(model);
  return model;
}

PlanRequest plan_request(const TrainConfig& config, const ModelConfig& model,
                         const PlannedProcesses& processes) {
  return {.model = model,
          .shape = {.batch_size = config.batch_size,
                    .predictions = config.seq_len - (config.pack ? 0 : 1),
                    .micro_batches = config.accumulate,
                    .tree_sum = config.gradient_sum == "tree"},
          .precision = config.precision,
          .layer_precision = config.layer_precision,
          .memory = config.memory,
          .budget_bytes = budget_of_one(config.memory_budget, processes.on_this_host),
          .lora = config.lora,
          .share = share_of(config, processes.all)};
}

bool is_memory_limited(const TrainConfig& config, torch::Device device) {
  return config.memory_budget != "unlimited" && device.is_cpu();
}

void check_memory_budget(const TrainConfig& config, const ModelConfig& model) {
  // What a precision that is not chosen yet takes, its choice asks.
  if (config.precision == kAutoPrecision) return;
  if (!is_memory_limited(config, resolve_device(config.device))) return;
  const ProcessPlace place = find_process_place();
  check_memory(plan_request(config, model, {.all = place.size, .on_this_host = place.local_size}));
}

}  // namespace halftone
