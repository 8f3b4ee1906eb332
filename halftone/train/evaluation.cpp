// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/evaluation.h"

#include "halftone/nn/evaluation_mode.h"

namespace halftone {

std::map<std::string, double> run_evaluation(EvaluationTask& task, const MixedPrecision& precision,
                                             const EvaluationLimit& limit,
                                             ProcessGroup* processes) {
  TrainingModuleBase& module = task.module();
  const TrainingRecord record(module);
  const EvaluationMode mode(module);
  if (processes != nullptr) task.share(*processes);
  module.set_processes(processes);
  {
    const auto region = precision.forward_context();
    task.run(precision.batch_placement(), limit);
  }
  if (processes != nullptr) module.logged().add_up(*processes);
  module.set_processes(nullptr);  // they need not outlive the pass
  return module.logged().take();
}

}  // namespace halftone
