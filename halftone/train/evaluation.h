// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <utility>

#include "halftone/train/mixed_precision.h"
#include "halftone/train/training_task.h"

namespace halftone {

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

/// One pass over the task's data in eval mode, without gradients, in the given precision: the means
/// of what its steps log. The module has been converted to the precision. What was logged and
/// counted before is the next training step's, and stays. Several processes each take a share of
/// the batches, and all get the means over all; `shared`: what they share.
std::map<std::string, double> run_evaluation(EvaluationTask& task, const MixedPrecision& precision,
                                             const EvaluationLimit& limit = {},
                                             const EvaluationShare& shared = {});

}  // namespace halftone
