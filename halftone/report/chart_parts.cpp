// SPDX-License-Identifier: Apache-2.0
#include "halftone/report/chart_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace halftone {
namespace {

constexpr double kDecades = 100;  // high / low from which on a logarithm shows more
constexpr int kTicksOfNarrow = 5, kTicksOfWide = 10;

bool is_narrow(const Chart& chart) { return !chart.is_wide; }

}  // namespace

StepRange steps_of(const StepHistory& history) {
  return {static_cast<double>(history.buckets().front().first_step),
          static_cast<double>(history.buckets().back().last_step)};
}

Axis height_axis(ValueRange range, Height height, int ticks) {
  if (height == Height::kFitted && range.low > 0 && range.high / range.low >= kDecades)
    return Axis::log10(range.low, range.high);
  if (height == Height::kFromZero) range.low = std::min(range.low, 0.0);
  return Axis::linear(range.low, range.high, ticks);
}

Chart chart_over(const StepRange& steps, std::string title, std::string unit, const Axis& y,
                 bool is_wide) {
  return {.title = std::move(title),
          .unit = std::move(unit),
          .is_wide = is_wide,
          .x = Axis::steps(steps.first, steps.last, is_wide ? kTicksOfWide : kTicksOfNarrow),
          .y = y,
          .areas = {},
          .curves = {},
          .marks = {},
          .mark_name = {}};
}

void widen_the_odd_one(std::vector<Chart>& charts, const StepRange& steps) {
  if (std::count_if(charts.begin(), charts.end(), is_narrow) % 2 == 0) return;
  charts.back().is_wide = true;
  charts.back().x = Axis::steps(steps.first, steps.last, kTicksOfWide);
}

void add_with_mean(Chart& chart, const std::vector<ValueBucket>& buckets, std::int64_t width,
                   const std::string& name, std::string_view unit, const std::string& color) {
  const std::int64_t reach = smoothing_reach(buckets);
  if (reach == 0) {
    chart.curves.push_back({name, color, CurveStyle::kStrong, values_of(buckets), ""});
    return;
  }
  chart.curves.push_back({name, color, CurveStyle::kLight, values_of(buckets), ""});
  chart.curves.push_back(
      {fmt::format("mean of {} {}", short_number(static_cast<double>((2 * reach + 1) * width)),
                   unit),
       color, CurveStyle::kStrong, smoothed(buckets), ""});
}

}  // namespace halftone
