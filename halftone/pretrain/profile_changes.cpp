// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/profile_changes.h"

#include <fmt/format.h>
#include <torch/utils.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "halftone/core/device.h"
#include "halftone/core/dtype.h"
#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/kernels/gemm/compute_type.h"
#include "halftone/kernels/gemm/cpu_gemm_config.h"
#include "halftone/kernels/gemm/matmul_environment.h"
#include "halftone/kernels/gemm/matmul_format.h"
#include "halftone/machine/machine.h"
#include "halftone/pretrain/auto_precision.h"
#include "halftone/pretrain/config_precision.h"
#include "halftone/pretrain/plan_request.h"

namespace halftone {
namespace {

/// A precision that `plan` predicts to be so much slower is not tried.
constexpr double kHopeless = 1.5;

double planned_s(const std::optional<RunPlan>& plan, const TrainConfig& config) {
  const std::optional<RecipePlan> recipe =
      plan ? planned_recipe(*plan, config) : std::optional<RecipePlan>();
  return recipe ? recipe->step_s : 0;
}

std::vector<ConfigChange> other_precisions(const TrainConfig& config,
                                           const std::optional<RunPlan>& plan) {
  const std::vector<ComputeType>& types = compute_types();
  const auto rank = [&](ComputeType type) {
    return std::find(types.begin(), types.end(), type) - types.begin();
  };
  const PrecisionPolicy present = parse_precision(config.precision);
  const double now = planned_s(plan, config);
  std::vector<std::pair<double, ConfigChange>> found;
  const torch::Device device = resolve_device(config.device);
  for (const std::string& name : choosable_precisions(config.memory)) {
    const ComputeType type = parse_precision(name).compute;
    // What is emulated is never the fastest.
    if (name == config.precision || !matmul_format(type).remark(device).empty()) continue;
    ConfigChange change{.change = "--precision " + name, .config = in_precision(config, name)};
    const double then = planned_s(plan, change.config);
    if (now > 0 && then > kHopeless * now) continue;
    if (rank(type) > rank(present.compute))
      change.caveat = "coarser numbers: look with `halftone compare`";
    if (present.parameter != torch::kFloat) change.caveat = "fp32 weights: more memory";
    found.emplace_back(then, std::move(change));
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<ConfigChange> changes;
  for (auto& [seconds, change] : found) changes.push_back(std::move(change));
  return changes;
}

std::string more_memory(const std::optional<RunPlan>& plan, const TrainConfig& now,
                        const TrainConfig& then) {
  const auto before = plan ? planned_recipe(*plan, now) : std::optional<RecipePlan>();
  if (!before) return "more memory";
  const std::uint64_t after =
      plan_memory(plan_request(then, planned_model(then)), before->bytes.process).bytes.total();
  if (after <= before->bytes.total()) return "";
  return format_bytes(after - before->bytes.total()) + " more memory";
}

std::vector<ConfigChange> more_memory_changes(const TrainConfig& config,
                                              const std::optional<RunPlan>& plan) {
  std::vector<ConfigChange> changes;
  const MemoryPolicy memory = memory_policy(config.memory, parse_precision(config.precision));
  if (memory.recompute_blocks) {
    ConfigChange change{.change = "--recompute none", .config = config};
    change.config.memory.recompute = "none";
    change.caveat = more_memory(plan, config, change.config);
    changes.push_back(std::move(change));
  }
  if (config.memory.memory != "standard") {
    ConfigChange change{.change = "--memory standard", .config = config};
    change.config.memory = {.rounding = config.memory.rounding};
    change.caveat = more_memory(plan, config, change.config);
    changes.push_back(std::move(change));
  }
  return changes;
}

/// The same model multiplied by `choice`.
ConfigChange matmul_change(const TrainConfig& config, const std::string& word,
                           const CpuGemmConfig& choice) {
  const bool by_variable = !matmul_environment().empty();
  const CpuGemmConfig present = cpu_gemm_config();
  return {.change = (by_variable ? "HALFTONE_MATMUL=" : "--kernels.matmul ") + word,
          .config = config,
          .enter = [choice] { set_cpu_gemm_config(choice); },
          .leave = [present] { set_cpu_gemm_config(present); }};
}

std::vector<ConfigChange> matmul_changes(const TrainConfig& config) {
  const torch::ScalarType dtype = parse_precision(config.precision).compute_dtype();
  const CpuGemmConfig present = cpu_gemm_config();
  std::vector<std::string> words;
  if (is_half(dtype))
    for (const char* way : {"native", "upcast"})
      words.push_back(fmt::format("{}={}", dtype_name(dtype), way));
  for (const char* library : {"blas", "onednn"}) words.push_back(fmt::format("fp32={}", library));
  std::vector<ConfigChange> changes;
  for (const std::string& word : words)
    if (const CpuGemmConfig choice = parse_cpu_gemm_config(word, present); choice != present)
      changes.push_back(matmul_change(config, word, choice));
  return changes;
}

std::vector<ConfigChange> thread_changes(const TrainConfig& config) {
  const int present = torch::get_num_threads();
  const int most = static_cast<int>(std::thread::hardware_concurrency());
  std::vector<ConfigChange> changes;
  for (const int count : {present / 2, 2 * present}) {
    if (count < 1 || count > most) continue;
    ConfigChange change{.change = fmt::format("--threads {}", count),
                        .config = config,
                        .enter = [count] { torch::set_num_threads(count); },
                        .leave = [present] { torch::set_num_threads(present); }};
    change.config.threads = count;
    changes.push_back(std::move(change));
  }
  return changes;
}

ConfigChange larger_batch(const TrainConfig& config, const std::optional<RunPlan>& plan) {
  ConfigChange change{.config = config};
  change.config.batch_size *= 2;
  change.change = fmt::format("--batch-size {}", change.config.batch_size);
  change.caveat = more_memory(plan, config, change.config);
  if (config.accumulate % 2 == 0) {
    change.config.accumulate /= 2;
    change.change += fmt::format(" --accumulate {}", change.config.accumulate);
  } else {
    change.caveat +=
        std::string(change.caveat.empty() ? "" : ", ") + "a larger step learns less of a token";
  }
  return change;
}

/// Bytes that a model of `config` takes beside the process. Throws UserError where they are not
/// there.
void check_room(const TrainConfig& config, const PretrainInputs& inputs) {
  if (!inputs.device.is_cpu()) return;
  const std::uint64_t needed =
      plan_memory(plan_request(config, inputs.model), /*process=*/0).bytes.total();
  const std::uint64_t available = std::min(system_memory().available_bytes, memory_limit());
  if (needed > available)
    throw UserError(fmt::format("it needs {} beside the present step, and {} is free",
                                format_bytes(needed), format_bytes(available)));
}

RunnableStep made_step(const ConfigChange& change, ReadyStep& now, const PretrainInputs& inputs) {
  RunnableStep step{.enter = change.enter, .leave = change.leave};
  if (change.enter) {
    step.take = [&now] { now.step().take(); };
    return step;
  }
  check_room(change.config, inputs);
  const auto ready = std::make_shared<ReadyStep>(change.config, inputs);
  step.take = [ready] { ready->step().take(); };
  return step;
}

}  // namespace

std::optional<RecipePlan> planned_recipe(const RunPlan& plan, const TrainConfig& config) {
  const auto found =
      std::find_if(plan.recipes.begin(), plan.recipes.end(), [&](const RecipePlan& recipe) {
        return recipe.precision == config.precision && recipe.memory == config.memory.memory;
      });
  return found != plan.recipes.end() ? std::optional<RecipePlan>(*found) : std::nullopt;
}

std::vector<ConfigChange> changes_to_try(const TrainConfig& config,
                                         const std::optional<RunPlan>& plan) {
  const bool on_cpu = plan.has_value();
  std::vector<ConfigChange> changes = other_precisions(config, plan);
  const auto add = [&](std::vector<ConfigChange> more) {
    std::move(more.begin(), more.end(), std::back_inserter(changes));
  };
  add(more_memory_changes(config, plan));
  if (!config.keep_fp32.empty()) {
    ConfigChange change{.change = "without --keep-fp32",
                        .caveat = "what it protected: look with `halftone compare`",
                        .config = config};
    change.config.keep_fp32.clear();
    changes.push_back(std::move(change));
  }
  changes.push_back(larger_batch(config, plan));
  if (on_cpu) add(thread_changes(config));
  if (on_cpu) add(matmul_changes(config));
  return changes;
}

std::vector<StepChange> as_step_changes(const std::vector<ConfigChange>& changes, ReadyStep& now,
                                        const PretrainInputs& inputs) {
  std::vector<StepChange> steps;
  for (const ConfigChange& change : changes)
    steps.push_back({.change = change.change,
                     .caveat = change.caveat,
                     .tokens = tokens_per_step(change.config),
                     .make = [change, &now, inputs] { return made_step(change, now, inputs); }});
  return steps;
}

}  // namespace halftone
