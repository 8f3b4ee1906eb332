// SPDX-License-Identifier: Apache-2.0
#include "halftone/report/report_charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <utility>

#include "halftone/report/chart_parts.h"
#include "halftone/report/logged_charts.h"
#include "halftone/report/report_curves.h"

namespace halftone {
namespace {

constexpr double kMibPerGib = 1024;

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
      : run_(run), steps_(run.steps()), range_(steps_of(steps_)) {}

  std::vector<Chart> all() {
    if (steps_.has(StepField::kLoss) || !other_losses().empty()) charts_.push_back(loss());
    if (steps_.has(StepField::kLr)) charts_.push_back(learning_rate());
    if (steps_.has(StepField::kGradNorm)) charts_.push_back(gradient_norm());
    if (steps_.has(StepField::kScale)) charts_.push_back(scale());
    if (steps_.has(StepField::kTokensPerS) || steps_.has(StepField::kStepMs))
      charts_.push_back(speed());
    widen_the_odd_one(charts_, range_);
    if (steps_.has(StepField::kRssMib) || !kinds_in(steps_).empty()) charts_.push_back(memory());
    return std::move(charts_);
  }

 private:
  Chart chart(std::string title, std::string unit, const Axis& y, bool is_wide = false) const {
    return chart_over(range_, std::move(title), std::move(unit), y, is_wide);
  }

  void add_pair(Chart& chart, StepField field, const std::string& name) const {
    add_with_mean(chart, steps_.values(field), steps_.width(), name);
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

  std::vector<LoggedCurve> other_losses() const;
  Chart loss() const;
  Chart learning_rate() const;
  Chart gradient_norm() const;
  Chart scale() const;
  Chart speed() const;
  Chart memory() const;

  const RunHistory& run_;
  const StepHistory& steps_;
  StepRange range_;
  std::vector<Chart> charts_;
};

// val_loss, and what the module has logged beside it: test_loss, train_loss.
std::vector<LoggedCurve> Charts::other_losses() const {
  std::vector<LoggedCurve> curves;
  if (!run_.validation().empty()) curves.push_back({"validation", "c2", false, &run_.validation()});
  const auto logged = logged_curves(run_);
  if (const auto losses = logged.find("loss"); losses != logged.end())
    curves.insert(curves.end(), losses->second.begin(), losses->second.end());
  return curves;
}

Chart Charts::loss() const {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const bool trains = steps_.has(StepField::kLoss);
  const std::vector<LoggedCurve> others = other_losses();
  const ValueRange range =
      trains ? range_of(steps_, StepField::kLoss) : ValueRange{kInfinity, -kInfinity};
  Chart picture = chart("Loss", "mean over the step's micro-batches, without the scale",
                        height_axis(range_with(range, others), Height::kFitted, 6), true);
  if (trains) add_pair(picture, StepField::kLoss, "training");
  for (const LoggedCurve& curve : others)
    picture.curves.insert(picture.curves.end() - (trains ? 1 : 0), dotted(curve));
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
