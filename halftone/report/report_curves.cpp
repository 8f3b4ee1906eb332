// SPDX-License-Identifier: Apache-2.0
#include "halftone/report/report_curves.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace halftone {
namespace {

Point point_of(const StepValue& value) { return {static_cast<double>(value.step), value.value}; }

template <class Bucket>
double middle_of(const Bucket& bucket) {
  return (static_cast<double>(bucket.first_step) + static_cast<double>(bucket.last_step)) / 2;
}

// A point that only goes on at the height of the two before it takes the place of the last.
void add_level(std::vector<Point>& points, std::int64_t step, double value) {
  const std::size_t size = points.size();
  if (size >= 2 && points[size - 1].value == value && points[size - 2].value == value)
    points.pop_back();
  points.push_back({static_cast<double>(step), value});
}

}  // namespace

std::vector<Point> values_of(const std::vector<ValueBucket>& buckets) {
  std::vector<Point> points;
  const auto add = [&](const StepValue& value) {
    if (points.empty() || static_cast<double>(value.step) > points.back().step)
      points.push_back(point_of(value));
  };
  for (const ValueBucket& bucket : buckets) {
    const FieldSummary& summary = bucket.summary;
    if (summary.count == 0) {
      points.push_back({middle_of(bucket), StepNumbers::kNone});
      continue;
    }
    const bool falls = summary.most.step < summary.least.step;
    if (&bucket == &buckets.front()) add(summary.first);
    add(falls ? summary.most : summary.least);
    add(falls ? summary.least : summary.most);
    if (&bucket == &buckets.back()) add(summary.last);
  }
  return points;
}

std::vector<Point> values_of(const StepHistory& history, StepField field) {
  return values_of(history.values(field));
}

std::vector<std::vector<Point>> stacked(const StepHistory& history,
                                        const std::vector<StepField>& fields) {
  std::vector<std::vector<Point>> layers(fields.size());
  for (const StepBucket& bucket : history.buckets()) {
    double sum = 0;
    for (std::size_t i = 0; i < fields.size(); ++i) {
      if (bucket[fields[i]].count > 0) sum += bucket[fields[i]].most.value;
      add_level(layers[i], bucket.first_step, sum);
      if (bucket.last_step > bucket.first_step) add_level(layers[i], bucket.last_step, sum);
    }
  }
  return layers;
}

std::int64_t smoothing_reach(const std::vector<ValueBucket>& buckets) {
  return std::ssize(buckets) / 50;
}

std::vector<Point> smoothed(const std::vector<ValueBucket>& buckets) {
  const std::int64_t reach = smoothing_reach(buckets);
  std::vector<Point> points;
  for (std::int64_t i = 0; i < std::ssize(buckets); ++i) {
    const std::int64_t first = std::max<std::int64_t>(i - reach, 0);
    const std::int64_t last = std::min({i + reach, 2 * i, std::ssize(buckets) - 1});
    double sum = 0;
    std::int64_t count = 0;
    for (std::int64_t j = first; j <= last; ++j) {
      const FieldSummary& summary = buckets[static_cast<std::size_t>(j)].summary;
      sum += summary.sum;
      count += summary.count;
    }
    points.push_back({middle_of(buckets[static_cast<std::size_t>(i)]),
                      count > 0 ? sum / static_cast<double>(count) : StepNumbers::kNone});
  }
  return points;
}

std::vector<double> skipped_steps(const StepHistory& history) {
  std::vector<double> steps;
  for (const StepBucket& bucket : history.buckets())
    if (bucket.skipped > 0) steps.push_back(middle_of(bucket));
  return steps;
}

StepValue last_of(const StepHistory& history, StepField field) {
  const auto& buckets = history.buckets();
  return std::find_if(buckets.rbegin(), buckets.rend(),
                      [&](const StepBucket& bucket) { return bucket[field].count > 0; })
      ->fields[static_cast<std::size_t>(field)]
      .last;
}

ValueRange range_of(const std::vector<ValueBucket>& buckets) {
  ValueRange range{std::numeric_limits<double>::infinity(),
                   -std::numeric_limits<double>::infinity()};
  for (const auto& [first_step, last_step, summary] : buckets) {
    if (summary.count == 0) continue;
    range.low = std::min(range.low, summary.least.value);
    range.high = std::max(range.high, summary.most.value);
  }
  return range;
}

ValueRange range_of(const StepHistory& history, StepField field) {
  return range_of(history.values(field));
}

}  // namespace halftone
