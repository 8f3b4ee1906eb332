// SPDX-License-Identifier: Apache-2.0
// From the buckets of a history to the points of curves.
#pragma once

#include <cstdint>
#include <vector>

#include "halftone/report/chart.h"
#include "halftone/run/step_history.h"

namespace halftone {

/// Every step's value, or, of buckets with several steps, their extremes; the first and the last
/// value of the run in any case. A bucket without the number is a gap.
std::vector<Point> values_of(const std::vector<ValueBucket>& buckets);
std::vector<Point> values_of(const StepHistory& history, StepField field);

/// For each of `fields` the sum of it and those before it, of the largest values in each bucket; a
/// number that is missing counts as 0. Of points with equal values in a row the outer two are left.
std::vector<std::vector<Point>> stacked(const StepHistory& history,
                                        const std::vector<StepField>& fields);

/// How many buckets on each side smoothed() takes in: a fiftieth of them. 0: too few to smooth.
std::int64_t smoothing_reach(const std::vector<ValueBucket>& buckets);

/// The mean over each bucket and its neighbours: at the start over fewer, as many on both sides; at
/// the end over those before it.
std::vector<Point> smoothed(const std::vector<ValueBucket>& buckets);

/// The middle of each bucket with a skipped step.
std::vector<double> skipped_steps(const StepHistory& history);

/// The value of the last step that has one; REQUIRES history.has(field).
StepValue last_of(const StepHistory& history, StepField field);

struct ValueRange {
  double low = 0, high = 0;
};
/// Of all values; REQUIRES one.
ValueRange range_of(const std::vector<ValueBucket>& buckets);
ValueRange range_of(const StepHistory& history, StepField field);

}  // namespace halftone
