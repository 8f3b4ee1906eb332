// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/evaluation.h"

#include "halftone/nn/evaluation_mode.h"

namespace halftone {

std::map<std::string, double> run_evaluation(EvaluationTask& task, const MixedPrecision& precision,
                                             const EvaluationLimit& limit) {
  TrainingModuleBase& module = task.module();
  const TrainingRecord record(module);
  const EvaluationMode mode(module);
  {
    const auto region = precision.forward_context();
    task.run(precision.batch_placement(), limit);
  }
  return module.logged().take();
}

}  // namespace halftone
