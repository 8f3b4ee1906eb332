// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/learning_rate_monitor.h"

#include <fmt/format.h>

#include "halftone/train/trainer.h"

namespace halftone {

void LearningRateMonitor::add_metrics(Trainer& trainer, StepMetrics& metrics) {
  const auto& setups = trainer.loop().optimizers();
  for (std::size_t i = 0; i < setups.size(); ++i) {
    const auto& groups = setups[i].optimizer->param_groups();
    const std::string place = setups.size() > 1 ? fmt::format("lr/{}", i) : "lr";
    for (std::size_t g = 0; g < groups.size(); ++g)
      metrics.logged[fmt::format("{}/{}", place, g)] = groups[g].options().get_lr();
  }
}

}  // namespace halftone
