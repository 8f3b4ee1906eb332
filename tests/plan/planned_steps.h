// SPDX-License-Identifier: Apache-2.0
// Modules to plan, for the tests of this room.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "halftone/optim/adamw.h"
#include "halftone/plan/module_plan.h"
#include "halftone/train/training_module.h"

namespace halftone::test {

/// A module whose loss is a function of itself and its batch.
template <class BatchType>
class Steps : public TrainingModule<BatchType> {
 public:
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    return {std::make_shared<AdamW>(this->parameters(), context.adamw())};
  }
};

inline ModulePlan planned(const PlannedTraining& training, const std::string& precision,
                          std::int64_t batch = 32, const std::string& memory = "standard") {
  return plan_module(training, {.precision = precision, .memory = {.memory = memory}}, batch, 0);
}

}  // namespace halftone::test
