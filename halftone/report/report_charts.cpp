// SPDX-License-Identifier: Apache-2.0
#include "halftone/report/report_charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "halftone/report/report_curves.h"

namespace halftone {
namespace {

constexpr double kDecades = 100;  // high / low from which on a logarithm shows more
constexpr double kMibPerGib = 1024;

enum class Height { kFromZero, kFitted };  // kFitted: a logarithm where it spans decades

Axis height_axis(ValueRange range, Height height, int ticks) {
  if (height == Height::kFitted && range.low > 0 && range.high / range.low >= kDecades)
    return Axis::log10(range.low, range.high);
  if (height == Height::kFromZero) range.low = std::min(range.low, 0.0);
  return Axis::linear(range.low, range.high, ticks);
}

struct MemoryKind {
  StepField field;
  const char* name;
  const char* color;
};
constexpr std::array<MemoryKind, 4> kMemoryKinds{{{StepField::kWeightsMib, "weights", "c1"},
                                                  {StepField::kGradientsMib, "gradients", "c2"},
                                                  {StepField::kStatesMib, "optimizer states", "c3"},
                                                  {StepField::kTensorsMib, "other tensors", "c4"}}};

std::vector<MemoryKind> kinds_in(const StepHistory& steps) {
  std::vector<MemoryKind> kinds;
  for (const MemoryKind& kind : kMemoryKinds)
    if (steps.has(kind.field) && range_of(steps, kind.field).high > 0) kinds.push_back(kind);
  return kinds;
}

double highest_of(const std::vector<Point>& points) {
  double highest = 0;
  for (const Point& point : points) highest = std::max(highest, point.value);
  return highest;
}

// Areas reach over the whole axis, also where it has room around a single step.
std::vector<Point> across(const Axis& axis, std::vector<Point> points) {
  points.front().step = axis.low();
  points.push_back({axis.high(), points.back().value});
  return points;
}

std::vector<Point> divided(std::vector<Point> points, double divisor) {
  for (Point& point : points) point.value /= divisor;
  return points;
}

class Charts {
 public:
  explicit Charts(const RunHistory& run)
      : run_(run),
        steps_(run.steps()),
        first_(static_cast<double>(steps_.buckets().front().first_step)),
        last_(static_cast<double>(steps_.buckets().back().last_step)) {}

  std::vector<Chart> all() {
    if (steps_.has(StepField::kLoss) || !run_.validation().empty()) charts_.push_back(loss());
    if (steps_.has(StepField::kLr)) charts_.push_back(learning_rate());
    if (steps_.has(StepField::kGradNorm)) charts_.push_back(gradient_norm());
    if (steps_.has(StepField::kScale)) charts_.push_back(scale());
    if (steps_.has(StepField::kTokensPerS) || steps_.has(StepField::kStepMs))
      charts_.push_back(speed());
    if (std::count_if(charts_.begin(), charts_.end(), is_narrow) % 2 == 1)
      charts_.back() = widened(charts_.back());  // two of them stand side by side
    if (steps_.has(StepField::kRssMib) || !kinds_in(steps_).empty()) charts_.push_back(memory());
    return std::move(charts_);
  }

 private:
  static bool is_narrow(const Chart& chart) { return !chart.is_wide; }

  Chart chart(std::string title, std::string unit, const Axis& y, bool is_wide = false) const {
    return {.title = std::move(title),
            .unit = std::move(unit),
            .is_wide = is_wide,
            .x = Axis::steps(first_, last_, is_wide ? 10 : 5),
            .y = y,
            .areas = {},
            .curves = {},
            .marks = {},
            .mark_name = {}};
  }

  Chart widened(Chart narrow) const {
    narrow.is_wide = true;
    narrow.x = Axis::steps(first_, last_, 10);
    return narrow;
  }

  void add_pair(Chart& chart, StepField field, const std::string& name) const {
    const std::int64_t reach = smoothing_reach(steps_);
    if (reach == 0) {
      chart.curves.push_back({name, "c1", CurveStyle::kStrong, values_of(steps_, field), ""});
      return;
    }
    chart.curves.push_back({name, "c1", CurveStyle::kLight, values_of(steps_, field), ""});
    chart.curves.push_back({fmt::format("mean of {} steps", short_number(static_cast<double>(
                                                                (2 * reach + 1) * steps_.width()))),
                            "c1", CurveStyle::kStrong, smoothed(steps_, field), ""});
  }

  // "weights 6.1"
  std::string name_with_most(const char* name, StepField field, double divisor) const {
    const double most = range_of(steps_, field).high / divisor;
    return most >= 100 ? fmt::format("{} {:.0f}", name, most)
                       : fmt::format("{} {:.3g}", name, most);
  }

  void mark_skips(Chart& chart) const {
    chart.marks = skipped_steps(steps_);
    chart.mark_name = "skipped step";
  }

  Chart loss() const;
  Chart learning_rate() const;
  Chart gradient_norm() const;
  Chart scale() const;
  Chart speed() const;
  Chart memory() const;

  const RunHistory& run_;
  const StepHistory& steps_;
  double first_, last_;
  std::vector<Chart> charts_;
};

Chart Charts::loss() const {
  const StepHistory& validation = run_.validation();
  const bool trains = steps_.has(StepField::kLoss);
  ValueRange range = range_of(trains ? steps_ : validation, StepField::kLoss);
  if (!validation.empty()) {
    const ValueRange other = range_of(validation, StepField::kLoss);
    range = {std::min(range.low, other.low), std::max(range.high, other.high)};
  }
  Chart picture = chart("Loss", "mean over the step's micro-batches, without the scale",
                        height_axis(range, Height::kFitted, 6), true);
  if (trains) add_pair(picture, StepField::kLoss, "training");
  if (!validation.empty())
    picture.curves.insert(
        picture.curves.begin() + (trains ? 1 : 0),
        {"validation", "c2", CurveStyle::kDots, values_of(validation, StepField::kLoss), ""});
  mark_skips(picture);
  return picture;
}

Chart Charts::learning_rate() const {
  Chart picture = chart("Learning rate", "of each update",
                        height_axis(range_of(steps_, StepField::kLr), Height::kFromZero, 4));
  picture.curves.push_back({"", "c1", CurveStyle::kStrong, values_of(steps_, StepField::kLr), ""});
  return picture;
}

Chart Charts::gradient_norm() const {
  Chart picture = chart("Gradient norm", "before clipping",
                        height_axis(range_of(steps_, StepField::kGradNorm), Height::kFitted, 4));
  add_pair(picture, StepField::kGradNorm, "each step");
  return picture;
}

Chart Charts::scale() const {
  const ValueRange range = range_of(steps_, StepField::kScale);
  Chart picture = chart("Loss scale", "of each step",
                        range.low > 0 ? Axis::log2(range.low, range.high, 5)
                                      : height_axis(range, Height::kFromZero, 4));
  const StepValue last = last_of(steps_, StepField::kScale);
  picture.curves.push_back({"", "c1", CurveStyle::kStairs, values_of(steps_, StepField::kScale),
                            power_of_two(last.value)});
  mark_skips(picture);
  return picture;
}

Chart Charts::speed() const {
  const bool has_tokens = steps_.has(StepField::kTokensPerS);
  const StepField field = has_tokens ? StepField::kTokensPerS : StepField::kStepMs;
  Chart picture = chart("Speed", has_tokens ? "tokens per second" : "milliseconds a step",
                        height_axis(range_of(steps_, field), Height::kFromZero, 4));
  add_pair(picture, field, "each step");
  return picture;
}

Chart Charts::memory() const {
  const std::vector<MemoryKind> kinds = kinds_in(steps_);
  std::vector<StepField> fields;
  fields.reserve(kinds.size());
  for (const MemoryKind& kind : kinds) fields.push_back(kind.field);
  const std::vector<std::vector<Point>> layers = stacked(steps_, fields);
  const double highest = std::max({run_.totals().peak_rss_mib, run_.totals().peak_cuda_mib,
                                   layers.empty() ? 0.0 : highest_of(layers.back())});
  const double divisor = highest >= 10 * kMibPerGib ? kMibPerGib : 1;
  Chart picture = chart("Memory",
                        divisor > 1 ? "GiB; beside the names, the most of each"
                                    : "MiB; beside the names, the most of each",
                        height_axis({0, highest / divisor}, Height::kFromZero, 5), true);
  std::vector<Point> lower = {{picture.x.low(), 0}, {picture.x.high(), 0}};
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    std::vector<Point> upper = across(picture.x, divided(layers[i], divisor));
    picture.areas.push_back({name_with_most(kinds[i].name, kinds[i].field, divisor), kinds[i].color,
                             std::exchange(lower, upper), upper});
  }
  const auto add_line = [&](StepField field, const char* name, const char* color) {
    if (steps_.has(field))
      picture.curves.push_back({name_with_most(name, field, divisor), color, CurveStyle::kStrong,
                                divided(values_of(steps_, field), divisor), ""});
  };
  add_line(StepField::kCudaMib, "tensors on the GPU", "c5");
  add_line(StepField::kRssMib, "resident", "ink");
  return picture;
}

}  // namespace

std::vector<Chart> report_charts(const RunHistory& history) { return Charts(history).all(); }

}  // namespace halftone
