// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>

#include "halftone/train/mixed_precision.h"
#include "halftone/train/training_task.h"

namespace halftone {

/// One pass over the task's data in eval mode, without gradients, in the given precision: the means
/// of what its steps log. The module has been converted to the precision. What was logged and
/// counted before is the next training step's, and stays.
std::map<std::string, double> run_evaluation(EvaluationTask& task, const MixedPrecision& precision);

}  // namespace halftone
