// SPDX-License-Identifier: Apache-2.0
// What the charts of a report have in common.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/report/chart.h"
#include "halftone/report/report_curves.h"
#include "halftone/run/step_history.h"

namespace halftone {

/// The steps that all charts of a report reach over.
struct StepRange {
  double first = 0, last = 0;
};
/// REQUIRES a step.
StepRange steps_of(const StepHistory& history);

enum class Height { kFromZero, kFitted };  // kFitted: a logarithm where it spans decades
Axis height_axis(ValueRange range, Height height, int ticks);

Chart chart_over(const StepRange& steps, std::string title, std::string unit, const Axis& y,
                 bool is_wide = false);

/// Narrow charts stand side by side, in pairs: makes the last of an odd number wide.
void widen_the_odd_one(std::vector<Chart>& charts, const StepRange& steps);

/// Adds a curve called `name`, or, where there are many values, a light one and its mean over some
/// of what `unit` counts: "steps". A bucket holds `width` of them.
void add_with_mean(Chart& chart, const std::vector<ValueBucket>& buckets, std::int64_t width,
                   const std::string& name, std::string_view unit = "steps",
                   const std::string& color = "c1");

}  // namespace halftone
