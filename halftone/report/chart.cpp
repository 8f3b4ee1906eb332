// SPDX-License-Identifier: Apache-2.0
#include "halftone/report/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "halftone/core/text.h"

namespace halftone {
namespace {

/// The picture in its own units, which are pixels where there is room.
struct Frame {
  double width, height;
  double left = 52, right = 58, top = 14, bottom = 30;

  double inner_width() const { return width - left - right; }
  double inner_height() const { return height - top - bottom; }
  double floor() const { return height - bottom; }
};

Frame frame_of(const Chart& chart) {
  return chart.is_wide ? Frame{.width = 1040, .height = 320} : Frame{.width = 508, .height = 230};
}

class Picture {
 public:
  explicit Picture(const Chart& chart) : chart_(chart), frame_(frame_of(chart)) {}

  std::string svg() {
    out_ = fmt::format("<svg viewBox=\"0 0 {:g} {:g}\" role=\"img\" aria-label=\"{}, {}\">\n",
                       frame_.width, frame_.height, html_escaped(chart_.title),
                       html_escaped(chart_.unit));
    add_grid();
    for (const Area& area : chart_.areas) add_area(area);
    for (const Curve& curve : chart_.curves) add_curve(curve);
    add_marks();
    if (!chart_.curves.empty()) add_end_label(chart_.curves.back());
    return std::move(out_) + "</svg>\n";
  }

 private:
  double x(double step) const {
    return frame_.left + frame_.inner_width() * std::clamp(chart_.x.share(step), 0.0, 1.0);
  }
  // nan where there is nothing to draw.
  double y(double value) const {
    const double share = chart_.y.share(value);
    if (std::isnan(share)) return share;
    return frame_.floor() - frame_.inner_height() * std::clamp(share, 0.0, 1.0);
  }

  void add_grid();
  void add_area(const Area& area);
  void add_curve(const Curve& curve);
  void add_marks();
  void add_end_label(const Curve& curve);
  std::string path_through(const std::vector<Point>& points, bool stairs) const;

  const Chart& chart_;
  Frame frame_;
  std::string out_;
};

void Picture::add_grid() {
  const double end = frame_.width - frame_.right;
  for (const Tick& tick : chart_.y.ticks())
    out_ += fmt::format(
        "<line class=\"grid\" x1=\"{0:g}\" x2=\"{1:g}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
        "<text class=\"ytick\" x=\"{3:g}\" y=\"{2:.1f}\" dy=\".35em\">{4}</text>\n",
        frame_.left, end, y(tick.value), frame_.left - 8, html_escaped(tick.label));
  out_ +=
      fmt::format("<line class=\"base\" x1=\"{0:g}\" x2=\"{1:g}\" y1=\"{2:g}\" y2=\"{2:g}\"/>\n",
                  frame_.left, end, frame_.floor());
  for (const Tick& tick : chart_.x.ticks())
    out_ += fmt::format(
        "<line class=\"base\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:g}\" y2=\"{2:g}\"/>"
        "<text class=\"xtick\" x=\"{0:.1f}\" y=\"{3:g}\">{4}</text>\n",
        x(tick.value), frame_.floor(), frame_.floor() + 4, frame_.floor() + 18,
        html_escaped(tick.label));
  out_ += fmt::format("<text class=\"xname\" x=\"{:g}\" y=\"{:g}\">step</text>\n", frame_.width - 4,
                      frame_.floor() + 18);
}

std::string Picture::path_through(const std::vector<Point>& points, bool stairs) const {
  std::string path;
  bool draws = false;
  for (const Point& point : points) {
    const double height = y(point.value);
    if (std::isnan(height)) {
      draws = false;
      continue;
    }
    if (!draws)
      path += fmt::format("M{:.1f} {:.1f}h0", x(point.step), height);  // h0: a lone point shows
    else if (stairs)
      path += fmt::format("H{:.1f}V{:.1f}", x(point.step), height);
    else
      path += fmt::format("L{:.1f} {:.1f}", x(point.step), height);
    draws = true;
  }
  return path;
}

void Picture::add_area(const Area& area) {
  std::string outline;
  for (const Point& point : area.upper)
    outline +=
        fmt::format("{}{:.1f} {:.1f}", outline.empty() ? 'M' : 'L', x(point.step), y(point.value));
  const std::vector<Point> way_back(area.lower.rbegin(), area.lower.rend());
  for (const Point& point : way_back)
    outline += fmt::format("L{:.1f} {:.1f}", x(point.step), y(point.value));
  if (!outline.empty())
    out_ += fmt::format("<path class=\"area {}\" d=\"{}Z\"/>\n", area.color, outline);
}

void Picture::add_curve(const Curve& curve) {
  const char* style = "strong";
  if (curve.style == CurveStyle::kLight) style = "light";
  if (curve.style == CurveStyle::kDots) style = "thin";
  const std::string path = path_through(curve.points, curve.style == CurveStyle::kStairs);
  if (path.empty()) return;
  out_ += fmt::format("<path class=\"curve {} {}\" d=\"{}\"/>\n", style, curve.color, path);
  if (curve.style != CurveStyle::kDots) return;
  for (const Point& point : curve.points)
    if (const double height = y(point.value); !std::isnan(height))
      out_ += fmt::format("<circle class=\"dot {}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\"/>\n",
                          curve.color, x(point.step), height);
}

void Picture::add_marks() {
  std::string path;
  for (const double step : chart_.marks)
    path += fmt::format("M{:.1f} {:g}v-9", x(step), frame_.floor());
  if (!path.empty()) out_ += fmt::format("<path class=\"mark\" d=\"{}\"/>\n", path);
}

void Picture::add_end_label(const Curve& curve) {
  const auto last = std::find_if(curve.points.rbegin(), curve.points.rend(),
                                 [&](const Point& p) { return !std::isnan(y(p.value)); });
  if (last == curve.points.rend()) return;
  out_ += fmt::format(
      "<circle class=\"end {0}\" cx=\"{1:.1f}\" cy=\"{2:.1f}\" r=\"3\"/>"
      "<text class=\"value\" x=\"{3:.1f}\" y=\"{2:.1f}\" dy=\".35em\">{4}</text>\n",
      curve.color, x(last->step), y(last->value), x(last->step) + 8,
      html_escaped(curve.end_label.empty() ? short_number(last->value) : curve.end_label));
}

std::string legend_entry(std::string_view shape, std::string_view color, std::string_view name) {
  return fmt::format("<li><i class=\"{} {}\"></i>{}</li>", shape, color, html_escaped(name));
}

// Empty where the title says all there is.
std::string legend_of(const Chart& chart) {
  std::string entries;
  for (const Curve& curve : chart.curves) {
    const char* shape = "key";
    if (curve.style == CurveStyle::kLight) shape = "key pale";
    if (curve.style == CurveStyle::kDots) shape = "key round";
    if (!curve.name.empty()) entries += legend_entry(shape, curve.color, curve.name);
  }
  std::string areas;  // from the top, as they lie
  for (const Area& area : chart.areas)
    areas.insert(0, legend_entry("key box", area.color, area.name));
  entries += areas;
  if (!chart.marks.empty()) entries += legend_entry("key tall", "bad", chart.mark_name);
  return entries.empty() ? "" : "<ul class=\"legend\">" + entries + "</ul>";
}

}  // namespace

std::string figure_of(const Chart& chart) {
  return fmt::format("<figure{}>\n<figcaption><h3>{} <small>{}</small></h3>{}</figcaption>\n",
                     chart.is_wide ? " class=\"wide\"" : "", html_escaped(chart.title),
                     html_escaped(chart.unit), legend_of(chart)) +
         Picture(chart).svg() + "</figure>\n";
}

}  // namespace halftone
