// SPDX-License-Identifier: Apache-2.0
#include "halftone/plan/recipe_plans.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/precision/memory_policy.h"
#include "halftone/precision/policy.h"
#include "halftone/train/layer_precision.h"

namespace halftone {
namespace {

/// Whether its choices go together; a name that does not exist is a UserError.
bool can_be(const ModuleRecipe& recipe) {
  const PrecisionPolicy precision = parse_precision(recipe.precision);
  // Each memory policy goes with fp32: what this throws is of the name.
  memory_policy({.memory = recipe.memory.memory}, parse_precision("32-true"));
  try {
    check_layer_precision(recipe.layer_precision, precision);
    memory_policy(recipe.memory, precision);
  } catch (const UserError&) {
    return false;
  }
  return true;
}

std::string words_of(const ModuleRecipe& recipe) {
  const std::string& memory = recipe.memory.memory;
  return memory == MemoryOptions{}.memory ? recipe.precision
                                          : fmt::format("{}, {}", recipe.precision, memory);
}

/// Of parameters and buffers in fp32.
double weight_bytes(const PlannedTraining& training) {
  const PrecisionPolicy fp32 = parse_precision("32-true");
  return step_memory([&] { return training.make(1); }, /*micro_batches=*/1,
                     {fp32, memory_policy({}, fp32)})
      .weights;
}

}  // namespace

std::vector<ModuleRecipe> recipes_of(const std::vector<std::string>& precisions,
                                     const std::vector<std::string>& memory) {
  std::vector<ModuleRecipe> recipes;
  for (const std::string& each : memory)
    for (const std::string& precision : precisions)
      recipes.push_back({.precision = precision, .memory = {.memory = each}});
  return recipes;
}

std::string recipe_plans_text(const PlannedTraining& training, const RecipePlanOptions& options) {
  std::vector<ModuleRecipe> recipes;
  std::copy_if(options.recipes.begin(), options.recipes.end(), std::back_inserter(recipes), can_be);
  measure_machine_speed();  // so that the process has what any that computes has
  std::uint64_t copies = 0;
  if (options.weight_copies > 0)
    copies = static_cast<std::uint64_t>(static_cast<double>(options.weight_copies) *
                                        weight_bytes(training));
  const std::uint64_t process = process_bytes() + copies;
  std::string text;
  std::vector<ModulePlan> plans;
  for (const ModuleRecipe& recipe : recipes)
    if (options.batch_size > 0)
      plans.push_back(plan_module(training, recipe, options.batch_size, process));
  for (const ModuleRecipe& recipe : recipes) {
    if (!options.budget) break;
    if (const auto largest = largest_batch(training, recipe, {*options.budget}, process))
      plans.push_back(*largest);
    else
      text += fmt::format("{}: not even one sample fits into {}\n", words_of(recipe),
                          format_bytes(*options.budget));
  }
  return text + module_plans_text(plans, options.samples, measure_machine_speed(plans));
}

}  // namespace halftone
