// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/evaluation.h"

#include <utility>

#include "halftone/kernels/linear/compute_context.h"
#include "halftone/nn/evaluation_mode.h"

namespace halftone {

std::map<std::string, double> run_evaluation(EvaluationTask& task, const MixedPrecision& precision,
                                             const EvaluationLimit& limit,
                                             const EvaluationShare& shared) {
  ProcessGroup* const processes = shared.processes;
  TrainingModuleBase& module = task.module();
  const TrainingRecord record(module);
  const EvaluationMode mode(module);
  if (processes != nullptr) task.share(*processes);
  module.set_processes(processes);
  {
    ComputeContext context = compute_context();
    context.weight_residency = shared.weights;
    const ComputeScope scope(std::move(context));
    task.run(precision, limit, shared.weights.get());
  }
  if (processes != nullptr) module.logged().add_up(*processes);
  module.set_processes(nullptr);  // they need not outlive the pass
  return module.logged().take();
}

}  // namespace halftone
