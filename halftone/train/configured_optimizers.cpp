// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/configured_optimizers.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/optim/fused_optimizer.h"

namespace halftone {
namespace {

// Forgetting the context would train with more memory, or other rounding, than was asked for.
void check_optimizer(const torch::optim::Optimizer& optimizer, const MemoryPolicy& memory) {
  const FusedOptimizer* const fused = as_fused(optimizer);
  const bool lacks_rounding_only = memory.missing_in({.stochastic_rounding = true}).empty();
  if (fused == nullptr && lacks_rounding_only) return;  // the Trainer notes it
  std::vector<std::string> asked, without;
  for (MemoryPart& part :
       memory.missing_in(fused != nullptr ? fused->traits() : OptimizerTraits{})) {
    asked.push_back(std::move(part.asked));
    without.push_back(std::move(part.without));
  }
  if (asked.empty()) return;
  throw UserError(fmt::format(
      "trainer: the run asks for {}, but {} of configure_optimizers() was built without; build a "
      "halftone::AdamW with context.adamw(options), or train with {}",
      fmt::join(asked, ", "), fused != nullptr ? "an AdamW" : "an optimizer of another kind",
      fmt::join(without, ", ")));
}

}  // namespace

std::vector<OptimizerSetup> configured_optimizers(TrainingModuleBase& module,
                                                  const OptimizerContext& context) {
  std::vector<OptimizerSetup> setups = module.configure_optimizers(context);
  HALFTONE_CHECK(!setups.empty(),
                 "[trainer] expected at least one optimizer from configure_optimizers(), got none");
  for (const OptimizerSetup& setup : setups) {
    HALFTONE_CHECK(setup.optimizer != nullptr,
                   "[trainer] expected optimizers from configure_optimizers(), got a null pointer");
    check_optimizer(*setup.optimizer, context.memory);
    const FusedOptimizer* const fused = as_fused(std::as_const(*setup.optimizer));
    if (context.shard_over && (fused == nullptr || !fused->traits().shards_states))
      throw UserError(
          "trainer: the run shares the optimizer's states over its processes, but an optimizer of "
          "configure_optimizers() keeps all of them; build a halftone::AdamW with "
          "context.adamw(options), or set shard to \"none\"");
  }
  return setups;
}

}  // namespace halftone
