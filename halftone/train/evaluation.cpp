// SPDX-License-Identifier: Apache-2.0
#include "halftone/train/evaluation.h"

#include <utility>

#include "halftone/nn/evaluation_mode.h"

namespace halftone {
namespace {

/// Sets aside what a module has logged and counted; it is there again when this is gone.
class TrainingRecord {
 public:
  explicit TrainingRecord(TrainingModuleBase& module)
      : module_(module),
        logged_(std::exchange(module.logged(), {})),
        tokens_(module.take_tokens()) {}
  ~TrainingRecord() {
    module_.logged() = std::move(logged_);
    module_.restore_tokens(tokens_);
  }
  TrainingRecord(const TrainingRecord&) = delete;
  TrainingRecord& operator=(const TrainingRecord&) = delete;

 private:
  TrainingModuleBase& module_;
  LoggedValues logged_;
  std::int64_t tokens_;
};

}  // namespace

std::map<std::string, double> run_evaluation(EvaluationTask& task,
                                             const MixedPrecision& precision) {
  TrainingModuleBase& module = task.module();
  const TrainingRecord record(module);
  const EvaluationMode mode(module);
  {
    const auto region = precision.forward_context();
    task.run(precision.batch_placement());
  }
  return module.logged().take();
}

}  // namespace halftone
