// SPDX-License-Identifier: Apache-2.0
#include "halftone/report/logged_charts.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>

#include "halftone/report/chart_parts.h"

namespace halftone {
namespace {

/// What a name says of the data that a value was measured on.
struct Origin {
  std::string_view prefix;
  const char* color;
};
constexpr std::array<Origin, 3> kOrigins{{{"train", "c1"}, {"val", "c2"}, {"test", "c3"}}};
constexpr std::array<const char*, 5> kColors{"c1", "c2", "c3", "c4", "c5"};

bool has_origin(std::string_view name, const Origin& origin) {
  const std::size_t size = origin.prefix.size();
  return name.starts_with(origin.prefix) && name.size() > size + 1 &&
         (name[size] == '_' || name[size] == '/');
}

const Origin* origin_of(std::string_view name) {
  const auto* const found = std::find_if(kOrigins.begin(), kOrigins.end(),
                                         [&](const Origin& one) { return has_origin(name, one); });
  return found == kOrigins.end() ? nullptr : found;
}

// One that no other curve of the chart has; the loss of the steps and val_loss have theirs.
std::string color_for(const char* wish, const std::string& chart,
                      const std::vector<LoggedCurve>& others) {
  const auto is_free = [&](const std::string& color) {
    return (chart != "loss" || (color != "c1" && color != "c2")) &&
           std::none_of(others.begin(), others.end(),
                        [&](const LoggedCurve& other) { return other.color == color; });
  };
  if (is_free(wish)) return wish;
  const auto* const free = std::find_if(kColors.begin(), kColors.end(), is_free);
  return free == kColors.end() ? wish : *free;
}

Chart logged_chart(const StepRange& steps, const std::string& title,
                   const std::vector<LoggedCurve>& curves) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const ValueRange range = range_with({kInfinity, -kInfinity}, curves);
  Chart chart = chart_over(steps, title, "as logged", height_axis(range, Height::kFitted, 4));
  for (const LoggedCurve& curve : curves)
    if (curve.is_of_steps)
      add_with_mean(chart, curve.values->buckets(), curve.values->width(), curve.label, "values",
                    curve.color);
    else
      chart.curves.push_back(dotted(curve));
  return chart;
}

}  // namespace

std::map<std::string, std::vector<LoggedCurve>> logged_curves(const RunHistory& history) {
  std::map<std::string, std::vector<LoggedCurve>> curves;
  for (const auto& [name, values] : history.logged()) {  // those of steps stand first
    const Origin* const origin = origin_of(name.name);
    const bool is_of_steps = name.kind == LineKind::kStep;
    const std::string chart =
        origin == nullptr ? name.name : name.name.substr(origin->prefix.size() + 1);
    std::vector<LoggedCurve>& others = curves[chart];
    const char* const wish = origin != nullptr ? origin->color : is_of_steps ? "c1" : "c4";
    const bool is_of_epochs = !is_of_steps && origin == nullptr;
    others.push_back({name.name + (is_of_epochs ? " (epochs)" : ""), color_for(wish, chart, others),
                      is_of_steps, &values});
  }
  return curves;
}

ValueRange range_with(ValueRange range, const std::vector<LoggedCurve>& curves) {
  for (const LoggedCurve& curve : curves) {
    const ValueRange other = range_of(curve.values->buckets());
    range = {std::min(range.low, other.low), std::max(range.high, other.high)};
  }
  return range;
}

Curve dotted(const LoggedCurve& curve) {
  return {curve.label, curve.color, CurveStyle::kDots, values_of(curve.values->buckets()), ""};
}

std::vector<Chart> logged_charts(const RunHistory& history) {
  const StepRange steps = steps_of(history.steps());
  std::vector<Chart> charts;
  for (const auto& [title, curves] : logged_curves(history))
    if (title != "loss") charts.push_back(logged_chart(steps, title, curves));
  widen_the_odd_one(charts, steps);
  return charts;
}

}  // namespace halftone
