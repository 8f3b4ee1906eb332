// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/auto_precision.h"

#include <fmt/format.h>

#include <algorithm>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/core/text.h"
#include "halftone/diagnostics/tune/choose_precision.h"
#include "halftone/kernels/gemm/matmul_format.h"
#include "halftone/plan/run_plan.h"
#include "halftone/precision/policy.h"
#include "halftone/pretrain/config_precision.h"
#include "halftone/pretrain/plan_request.h"
#include "halftone/train/step_replay.h"

namespace halftone {
namespace {

/// Whether the run would fit into its budget of a CPU's memory; `config` names a precision.
bool fits(const TrainConfig& config, const PretrainInputs& inputs) {
  if (!is_memory_limited(config, inputs.device)) return true;
  return plan_memory(plan_request(config, inputs.model), process_bytes()).fits;
}

/// Whether the run computes its blocks again: that changes the time of a step.
bool recomputes(const TrainConfig& config) {
  const MemoryOptions parts{.memory = config.memory.memory, .recompute = config.memory.recompute};
  return memory_policy(parts, PrecisionPolicy()).recompute_blocks;
}

/// `config` as the measurement has it: fp32 weights, and gradients in two precisions in the place
/// of an optimizer's states.
TrainConfig measured_config(const TrainConfig& config) {
  TrainConfig measured = in_precision(config, PrecisionPolicy().name);
  measured.memory = {.recompute = recomputes(config) ? "blocks" : "none"};
  return measured;
}

std::vector<std::string> candidates(const TrainConfig& config, const PretrainInputs& inputs) {
  std::vector<std::string> able;
  for (const std::string& name : choosable_precisions(config.memory)) {
    // What is emulated shows what a format does to the numbers, and is never the fastest.
    if (!matmul_format(parse_precision(name).compute).remark(inputs.device).empty()) continue;
    if (fits(in_precision(config, name), inputs)) able.push_back(name);
  }
  return able;
}

}  // namespace

std::vector<std::string> choosable_precisions(const MemoryOptions& memory) {
  std::vector<std::string> names;
  for (const ComputeType type : compute_types()) {
    const PrecisionPolicy policy = parse_precision(fp32_weights_precision(type));
    try {
      memory_policy(memory, policy);
      names.push_back(policy.name);
    } catch (const UserError&) {  // it says why the parts exclude each other
    }
  }
  return names;
}

TrainConfig with_chosen_precision(const TrainConfig& config, const PretrainInputs& inputs,
                                  const PreparationProgress& progress) {
  if (config.precision != kAutoPrecision) return config;
  const std::vector<std::string> names = candidates(config, inputs);
  const TrainConfig measured = measured_config(config);
  if (names.empty() || !fits(measured, inputs))
    throw UserError(fmt::format(
        "precision auto: {} into the memory budget; 'halftone plan' shows what each precision "
        "takes: name one of them, or reduce batch_size, seq_len or the model",
        names.empty() ? "no precision fits"
                      : "a step in fp32, which the others are compared with, does not fit"));
  LanguageModeling module = make_module(measured, inputs);
  const TokenLoader loader = make_loader(measured, inputs);
  const auto batch = [&](std::int64_t position) {
    return training_step_on(module, loader.batch_at(position));
  };
  const PrecisionChoice choice =
      choose_precision(batch(0), batch(std::max<std::int64_t>(1, loader.batches_per_epoch() / 2)),
                       {.precisions = names,
                        .device = inputs.device,
                        .recompute_blocks = recomputes(config),
                        .micro_batches = config.accumulate,
                        .progress = progress});
  log_note(fmt::format("precision auto: {}: {}", choice.precision, choice.reason));
  return in_precision(config, choice.precision);
}

}  // namespace halftone
