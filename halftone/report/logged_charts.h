// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "halftone/report/chart.h"
#include "halftone/report/report_curves.h"
#include "halftone/run/run_history.h"

namespace halftone {

/// A logged value as one of the curves of a chart.
struct LoggedCurve {
  std::string label;  ///< "val_acc"
  std::string color;  ///< a class of the page
  bool is_of_steps = false;
  const ValueHistory* values = nullptr;  ///< of the run's history, not empty
};

/// The logged values of a run by what they measure: acc, train_acc, val_acc and test_acc (or
/// val/acc) share "acc". Those of steps come first. They refer to `history`.
std::map<std::string, std::vector<LoggedCurve>> logged_curves(const RunHistory& history);

/// A range that takes in `range` and all of `curves`.
ValueRange range_with(ValueRange range, const std::vector<LoggedCurve>& curves);

/// Dots that a line joins, for what is not logged step by step.
Curve dotted(const LoggedCurve& curve);

/// A chart for each of logged_curves() but the loss, which has its own. REQUIRES a step.
std::vector<Chart> logged_charts(const RunHistory& history);

}  // namespace halftone
