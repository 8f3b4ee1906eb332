// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "halftone/train/callback.h"

namespace halftone {

/// Adds the learning rate of every parameter group to the metrics: "lr/0" of the only optimizer's
/// first group, "lr/1/0" where there are several optimizers.
class LearningRateMonitor : public Callback {
 public:
  void add_metrics(Trainer& trainer, StepMetrics& metrics) override;
};

}  // namespace halftone
