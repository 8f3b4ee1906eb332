// SPDX-License-Identifier: Apache-2.0
#include "halftone/plan/run_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <map>
#include <tuple>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/plan/layer_plan.h"

namespace halftone {
namespace {

/// What gains nothing by being coarser comes later: a leaner memory, 16-bit weights, a coarser
/// format of the matmuls, in this order.
std::tuple<std::ptrdiff_t, bool, ComputeType> coarseness(const RecipePlan& plan) {
  const std::vector<std::string>& memories = memory_names();
  const PrecisionPolicy precision = parse_precision(plan.precision);
  return {std::find(memories.begin(), memories.end(), plan.memory) - memories.begin(),
          precision.parameter != torch::kFloat, precision.compute};
}

std::map<std::string, ComputeType> layers_in(const PlanRequest& request,
                                             const PrecisionPolicy& policy) {
  if (policy.name != request.precision) return {};
  return planned_layer_types(request.model, request.layer_precision, policy, request.lora);
}

/// Until the step, for the other processes or a tree of sums.
bool keeps_gradients(const PlanRequest& request) {
  return request.share.processes > 1 || request.shape.tree_sum;
}

/// The recipe of `precision` and `memory` with the other choices of `request`, unless they exclude
/// each other.
std::optional<NumericsConfig> recipe_for(const PlanRequest& request, const std::string& precision,
                                         const std::string& memory) {
  MemoryOptions choice = request.memory;
  choice.memory = memory;
  const PrecisionPolicy policy = parse_precision(precision);
  std::map<std::string, ComputeType> layers = layers_in(request, policy);
  try {
    NumericsConfig recipe{policy, memory_policy(choice, policy), std::move(layers), request.lora};
    if (keeps_gradients(request) && recipe.memory.release_gradients) return {};
    return recipe;
  } catch (const UserError&) {
    return {};
  }
}

RecipePlan plan_of(const PlanRequest& request, const NumericsConfig& recipe,
                   std::uint64_t process) {
  RecipePlan plan{
      .precision = recipe.precision.name,
      .layer_precision =
          recipe.layers.empty() ? std::vector<std::string>() : request.layer_precision,
      .memory = recipe.memory.name,
      .bytes = peak_memory(request.model, request.shape, recipe, process, request.share)};
  plan.fits = plan.bytes.total() <= request.budget_bytes;
  return plan;
}

void add_seconds(const PlanRequest& request, const NumericsConfig& recipe,
                 const MachineSpeed& speed, RecipePlan& plan) {
  plan.step_s = step_seconds(request.model, request.shape, recipe, plan.bytes, speed);
  if (request.share.processes == 1 || !request.exchange) return;
  const BackwardPasses passes{
      .seconds = backward_seconds(request.model, request.shape, recipe, plan.bytes, speed),
      .micro_batches = request.shape.micro_batches};
  plan.exchange =
      exchange_seconds(request.share, largest_share(request.model, recipe, request.share),
                       *request.exchange, passes);
  plan.step_s += plan.exchange.exposed;
}

/// What clips by the norm of the step before was measured to learn less (docs/memory.md): it is
/// named where nothing else fits.
bool learns_less(const RecipePlan& recipe) { return recipe.memory == "leanest"; }

bool comes_first(const RecipePlan& a, const RecipePlan& b) {
  if (a.fits != b.fits) return a.fits;
  if (!a.fits) return a.bytes.total() < b.bytes.total();
  return std::tuple(learns_less(a), a.step_s, coarseness(a)) <
         std::tuple(learns_less(b), b.step_s, coarseness(b));
}

/// Sorted recipes: the finest of those that are as fast as the first moves to the front.
void prefer_fine_numbers(std::vector<RecipePlan>& recipes) {
  constexpr double kAsFast = 1.05;
  auto finest = recipes.begin();
  for (auto one = recipes.begin(); one != recipes.end(); ++one)
    if (one->fits && learns_less(*one) == learns_less(recipes.front()) &&
        one->step_s <= kAsFast * recipes.front().step_s && coarseness(*one) < coarseness(*finest))
      finest = one;
  if (finest != recipes.end()) std::rotate(recipes.begin(), finest, finest + 1);
}

/// The first recipe that fits, of `precision` if there is one.
const RecipePlan* way_out_of(const std::string& precision, const RunPlan& all) {
  const auto fits = [&](const RecipePlan& one) { return one.fits && one.precision == precision; };
  const auto same = std::find_if(all.recipes.begin(), all.recipes.end(), fits);
  if (same != all.recipes.end()) return &*same;
  return all.choice ? &*all.choice : nullptr;
}

std::string refusal(const RecipePlan& own, const RunPlan& all) {
  const RecipePlan* const other = way_out_of(own.precision, all);
  const std::string remedy =
      other != nullptr
          ? fmt::format("use precision {} with memory {} ({})", other->precision, other->memory,
                        format_bytes(other->bytes.total()))
          : fmt::format(
                "reduce batch_size, seq_len or the model (no recipe needs less than {}){}",
                format_bytes(all.recipes.front().bytes.total()),
                own.bytes.disk == 0 ? ", move the optimizer states to a disk (offload)" : "");
  return fmt::format(
      "the run needs {} of memory in precision {} with memory {}, more than the budget of {}; {}, "
      "or set memory_budget to unlimited",
      format_bytes(own.bytes.total()), own.precision, own.memory, format_bytes(all.budget_bytes),
      remedy);
}

}  // namespace

RecipePlan plan_memory(const PlanRequest& request, std::uint64_t process) {
  const PrecisionPolicy precision = parse_precision(request.precision);
  const MemoryPolicy memory = memory_policy(request.memory, precision);
  if (keeps_gradients(request) && memory.release_gradients)
    throw UserError(
        "plan: expected gradients that are kept where several processes train or gradient_sum is "
        "tree, got memory leanest (release_gradients); choose memory lean, or one process and "
        "gradient_sum sequential");
  return plan_of(request, {precision, memory, layers_in(request, precision), request.lora},
                 process);
}

RunPlan plan_run(const PlanRequest& request, const MachineSpeed& speed, std::uint64_t process) {
  RunPlan plan{.budget_bytes = request.budget_bytes};
  for (const std::string& precision : precision_names()) {
    for (const std::string& memory : memory_names()) {
      const std::optional<NumericsConfig> recipe = recipe_for(request, precision, memory);
      if (!recipe) continue;
      RecipePlan one = plan_of(request, *recipe, process);
      add_seconds(request, *recipe, speed, one);
      plan.recipes.push_back(std::move(one));
    }
  }
  std::sort(plan.recipes.begin(), plan.recipes.end(), comes_first);
  prefer_fine_numbers(plan.recipes);
  if (!plan.recipes.empty() && plan.recipes.front().fits) plan.choice = plan.recipes.front();
  return plan;
}

void check_memory(const PlanRequest& request) {
  const std::uint64_t process = process_bytes();
  const RecipePlan own = plan_memory(request, process);
  if (own.fits) return;
  throw UserError(refusal(own, plan_run(request, measure_machine_speed(), process)));
}

}  // namespace halftone
