// SPDX-License-Identifier: Apache-2.0
// Curves over the steps of a run as an SVG picture inside an HTML figure. Colours and fonts are
// those of the page that it stands in.
#pragma once

#include <string>
#include <vector>

#include "halftone/report/axis.h"

namespace halftone {

/// A value at a step; nan: a gap.
struct Point {
  double step = 0;
  double value = 0;
};

enum class CurveStyle {
  kStrong,
  kLight,   ///< what another curve smooths
  kStairs,  ///< each value lasts until the next
  kDots,    ///< dots that a thin line joins
};

struct Curve {
  std::string name;   ///< in the legend
  std::string color;  ///< a class of the page
  CurveStyle style = CurveStyle::kStrong;
  std::vector<Point> points;
  std::string end_label;  ///< beside the last point of the chart's last curve; empty: its value
};

/// The area between two curves of the same steps.
struct Area {
  std::string name;
  std::string color;
  std::vector<Point> lower, upper;
};

struct Chart {
  std::string title;
  std::string unit;  ///< what the vertical axis counts
  bool is_wide = false;
  Axis x, y;
  std::vector<Area> areas;    ///< drawn first
  std::vector<Curve> curves;  ///< the last one on top
  std::vector<double> marks;  ///< steps that are marked at the lower edge
  std::string mark_name;
};

/// A <figure> with title, legend and picture. Names are escaped; points outside the axes are drawn
/// at their edge.
std::string figure_of(const Chart& chart);

}  // namespace halftone
