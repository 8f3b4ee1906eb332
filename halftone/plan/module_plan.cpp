// SPDX-License-Identifier: Apache-2.0
#include "halftone/plan/module_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/data/prefetcher.h"
#include "halftone/kernels/gemm/matmul_format.h"
#include "halftone/plan/memory_plan_impl.h"
#include "halftone/plan/step_count_impl.h"
#include "halftone/train/layer_precision.h"

namespace halftone {
namespace {

NumericsConfig numerics_of(const ModuleRecipe& recipe) {
  const PrecisionPolicy precision = parse_precision(recipe.precision);
  check_layer_precision(recipe.layer_precision, precision);
  return {precision, memory_policy(recipe.memory, precision)};
}

/// One run of the step without data.
StepCount count_of(const PlannedTraining& training, const ModuleRecipe& recipe,
                   const NumericsConfig& numerics, std::int64_t batch_size) {
  const auto make = [&] {
    PlannedModule planned = training.make(batch_size);
    if (!recipe.layer_precision.empty())
      planned.layer_types = [module = planned.module, &recipe, &numerics] {
        return layer_types(*module, recipe.layer_precision, numerics.precision);
      };
    return planned;
  };
  return count_step(make, recipe.micro_batches, numerics);
}

/// Right operands stay packed, one for each shape and format.
double packed_bytes(const StepWork& work) {
  std::set<std::tuple<ComputeType, std::int64_t, std::int64_t>> shapes;
  for (const auto& [product, flops] : work.layer_flops)
    shapes.insert({{product.type, product.in, product.out},
                   {product.type, product.out, product.in},
                   {product.type, product.rows, product.in}});
  double bytes = 0;
  for (const auto& [type, depth, columns] : shapes)
    bytes +=
        matmul_format(type).packed_bytes(static_cast<double>(depth), static_cast<double>(columns));
  return bytes;
}

/// What oneDNN keeps of the layers' matmuls: for each shape its machine code, and what oneDNN and
/// LibTorch's cache in front of it know of it. Measured in resident memory, whatever the shape:
/// 630 to 690 KiB.
double kernel_bytes(const StepWork& work) {
  constexpr double kKernelBytes = 650.0 * 1024;
  constexpr int kMostKernels = 1024;  // that either cache holds
  int kernels = 0;
  for (const auto& [product, flops] : work.layer_flops)
    kernels += matmul_format(product.type).kept_kernels(product.rows, product.in, product.out);
  return kKernelBytes * std::min(kernels, kMostKernels);
}

std::uint64_t whole_bytes(double bytes) { return static_cast<std::uint64_t>(std::max(0.0, bytes)); }

/// What an AdamW's buffers take beyond their sizes; that of all parameters, where there are more.
std::uint64_t ends_of(const StepCount& count, const AdamWOptions& options) {
  if (!count.has_fused_optimizer) return 0;
  const std::vector<AdamWShareBytes> alone = adamw_share_bytes(count.learning, options, {});
  return unused_ends(adamw_layout(count.learning, options), alone.front().room, options);
}

/// In a step, as weights are made, or as a checkpoint is written: whichever is the most.
MemoryBytes peak_of(const StepCount& count, const ModuleRecipe& recipe, const AdamWOptions& options,
                    std::uint64_t process) {
  const StepMemory& step = count.memory;
  // A fused optimizer keeps them; else they come with the backward pass, after the update of the
  // step before.
  const double kept = count.has_fused_optimizer ? count.gradients : 0;
  const double states = step.optimizer - kept;
  const double come = count.gradients - kept;
  // Those that wait, one that is being made and its samples, and those of the step.
  const double batches = count.loaded_batch * (static_cast<double>(kBatchesAhead + 2) +
                                               static_cast<double>(recipe.micro_batches)) +
                         count.cast_batch;
  const std::int64_t chunk =
      count.has_fused_optimizer ? offload_chunk_bytes(count.learning, options) : 0;
  const std::uint64_t disk = options.offload.empty() ? 0 : whole_bytes(states);
  const MemoryBytes training{
      .weights = whole_bytes(step.weights),
      .gradients = whole_bytes(count.gradients),
      .states = (disk > 0 ? 0 : whole_bytes(states)) + static_cast<std::uint64_t>(chunk),
      .activations = whole_bytes(step.activations),
      .workspace =
          whole_bytes(step.workspace - come + packed_bytes(count.work) + kernel_bytes(count.work) +
                      batches + waiting_bytes(step.activations + step.workspace)) +
          ends_of(count, options),
      .process = process,
      .disk = disk};
  const MemoryBytes beginning{.weights = whole_bytes(step.weights + count.numbers * sizeof(float)),
                              .process = process,
                              .disk = disk};
  return beginning.total() > training.total() ? beginning : training;
}

/// Gradients are set to zero, measured and applied, weights and states read and written.
double update_bytes_of(const StepCount& count) {
  if (!count.has_fused_optimizer) return 0;
  return 3 * count.gradients +
         2 * (count.memory.weights + count.memory.optimizer - count.gradients);
}

/// "3.1 ms", "120 ms", "4.5 s".
std::string seconds_text(double seconds) {
  if (seconds >= 1) return format_seconds(seconds);
  return fmt::format("{:.{}f} ms", 1e3 * seconds, seconds < 0.01 ? 1 : 0);
}

std::string row_of(const ModulePlan& plan, std::int64_t samples, const MachineSpeed& speed) {
  const MemoryBytes& bytes = plan.bytes;
  return fmt::format(
      "{:<14} {:<9} {:>7} {:>9} {:>9} {:>9} {:>9} {:>11} {:>9} {:>9} {:>9} {:>9}\n",
      plan.recipe.precision, plan.recipe.memory.memory, plan.batch_size * plan.recipe.micro_batches,
      format_bytes(bytes.total()), format_bytes(bytes.weights), format_bytes(bytes.gradients),
      format_bytes(bytes.states), format_bytes(bytes.activations), format_bytes(bytes.workspace),
      format_bytes(bytes.process), seconds_text(step_seconds(plan, speed)),
      seconds_text(epoch_seconds(plan, samples, speed)));
}

}  // namespace

ModulePlan plan_module(const PlannedTraining& training, const ModuleRecipe& recipe,
                       std::int64_t batch_size, std::uint64_t process) {
  if (batch_size < 1 || recipe.micro_batches < 1)
    throw UserError(fmt::format(
        "plan: expected a batch of 1 sample or more and micro_batches from 1, got {} and {}",
        batch_size, recipe.micro_batches));
  const NumericsConfig numerics = numerics_of(recipe);
  StepCount count = count_of(training, recipe, numerics, batch_size);
  return {.recipe = recipe,
          .batch_size = batch_size,
          .bytes = peak_of(count, recipe, numerics.memory.adamw(), process),
          .work = std::move(count.work),
          .update_bytes = update_bytes_of(count)};
}

std::vector<ModulePlan> plan_precisions(const PlannedTraining& training,
                                        const std::vector<std::string>& precisions,
                                        const ModuleRecipe& recipe, std::int64_t batch_size,
                                        std::uint64_t process) {
  std::vector<ModulePlan> plans;
  for (const std::string& precision : precisions) {
    ModuleRecipe one = recipe;
    one.precision = precision;
    parse_precision(precision);  // a name that does not exist is no choice that excludes it
    try {
      numerics_of(one);
    } catch (const UserError&) {
      continue;
    }
    plans.push_back(plan_module(training, one, batch_size, process));
  }
  return plans;
}

std::optional<ModulePlan> largest_batch(const PlannedTraining& training, const ModuleRecipe& recipe,
                                        const BatchBudget& budget, std::uint64_t process) {
  std::optional<ModulePlan> best;
  const auto fits = [&](std::int64_t size) {
    ModulePlan plan = plan_module(training, recipe, size, process);
    if (plan.bytes.total() > budget.bytes) return false;
    best = std::move(plan);
    return true;
  };
  std::int64_t small = 0, large = 1;  // what fits, and what need not
  while (large <= budget.most && fits(large)) {
    small = large;
    large = std::min(2 * large, budget.most + (large == budget.most ? 1 : 0));
  }
  while (large - small > 1) {
    const std::int64_t middle = small + (large - small) / 2;
    (fits(middle) ? small : large) = middle;
  }
  return best;
}

MachineSpeed measure_machine_speed(const std::vector<ModulePlan>& plans) {
  StepWork all;
  for (const ModulePlan& plan : plans) all += plan.work;
  return measure_machine_speed(all);
}

double step_seconds(const ModulePlan& plan, const MachineSpeed& speed) {
  return work_seconds(plan.work, speed) + plan.update_bytes / speed.memory;
}

double epoch_seconds(const ModulePlan& plan, std::int64_t samples, const MachineSpeed& speed) {
  const auto of_step = static_cast<double>(plan.batch_size * plan.recipe.micro_batches);
  return static_cast<double>(samples) / of_step * step_seconds(plan, speed);
}

std::string module_plans_text(const std::vector<ModulePlan>& plans, std::int64_t samples,
                              const MachineSpeed& speed) {
  std::string text =
      fmt::format("{:<14} {:<9} {:>7} {:>9} {:>9} {:>9} {:>9} {:>11} {:>9} {:>9} {:>9} {:>9}\n",
                  "precision", "memory", "batch", "peak", "weights", "gradients", "states",
                  "activations", "workspace", "process", "step", "epoch");
  for (const ModulePlan& plan : plans) text += row_of(plan, samples, speed);
  return text;
}

}  // namespace halftone
