// SPDX-License-Identifier: Apache-2.0
// Recipes of one training beside each other: what each takes, and the largest batch that it allows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "halftone/plan/module_plan.h"

namespace halftone {

/// Each precision with each memory policy, in the order of these.
std::vector<ModuleRecipe> recipes_of(const std::vector<std::string>& precisions,
                                     const std::vector<std::string>& memory = {"standard"});

struct RecipePlanOptions {
  std::vector<ModuleRecipe> recipes;    // one whose choices exclude each other is left out
  std::int64_t batch_size = 0;          // that each recipe is planned with; 0: none
  std::optional<std::uint64_t> budget;  // bytes, of which each gets its largest batch
  std::int64_t samples = 0;             // of an epoch
  std::int64_t weight_copies = 0;       // in fp32, that callbacks keep: 1 with Ema
};

/// module_plans_text() of them on this machine, which is measured for some seconds: first those
/// with `batch_size`, then those of `budget`. Above it stands a line for each recipe of which the
/// budget holds not even one sample. To be called when all that the training has in memory is
/// there, for process_bytes() to count it. Throws UserError as plan_module() does.
std::string recipe_plans_text(const PlannedTraining& training, const RecipePlanOptions& options);

}  // namespace halftone
