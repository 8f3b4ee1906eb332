// SPDX-License-Identifier: Apache-2.0
// Numbers of many rows over the steps of a run as an SVG picture inside an HTML figure: the
// stronger the colour, the larger the number. Colours and fonts are those of the page that it
// stands in.
#pragma once

#include <string>
#include <vector>

#include "halftone/report/axis.h"

namespace halftone {

struct HeatRow {
  std::string name;  ///< a long one loses its front, and keeps it in a title
  std::vector<double>
      cells;  ///< one for each column; nan: nothing. Missing ones at the end: nothing
};

/// The steps that a column stands for.
struct HeatColumn {
  double first = 0, last = 0;
};

enum class HeatScale {
  kShare,  ///< 0 to the largest value, at most 1; zeros are not drawn
  kLog,    ///< from the smallest positive value to the largest; at most kHeatDecades below it
};

/// Decades of a logarithmic scale; smaller values have the palest colour.
inline constexpr double kHeatDecades = 6;

struct HeatMap {
  std::string title;
  std::string unit;
  std::string color;  ///< a class of the page
  HeatScale scale = HeatScale::kLog;
  bool is_wide = false;
  Axis x;
  std::vector<HeatColumn> columns;
  std::vector<HeatRow> rows;
};

/// A <figure> with title, scale and picture. Beside each row stands its last value. Names are
/// escaped.
std::string figure_of(const HeatMap& map);

}  // namespace halftone
