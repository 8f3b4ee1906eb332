// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/crossings.h"

#include <algorithm>
#include <cmath>

#include "halftone/core/error.h"
#include "halftone/core/stopwatch.h"

namespace halftone {
namespace {

constexpr std::size_t kLeastWidths = 3;

// Rounds that a small layer needs to show its least time, and a large one can afford.
int rounds_for(std::int64_t rows, std::int64_t width) {
  constexpr double kFlopsOfRounds = 2e9;
  const double flops = 6.0 * static_cast<double>(rows) * static_cast<double>(width * width);
  return static_cast<int>(std::clamp(kFlopsOfRounds / flops, 2.0, 20.0));
}

LayerPoint point_at(std::int64_t rows, std::int64_t width,
                    const std::vector<ComputeType>& formats) {
  return {.rows = rows,
          .width = width,
          .speeds = layer_speeds({.tokens = rows, .in = width, .out = width},
                                 rounds_for(rows, width), formats)};
}

const LayerSpeed* speed_of(const LayerPoint& point, ComputeType format) {
  const auto found = std::find_if(point.speeds.begin(), point.speeds.end(),
                                  [&](const LayerSpeed& s) { return s.compute == format; });
  return found == point.speeds.end() ? nullptr : &*found;
}

template <class Size>
std::optional<std::int64_t> size_that_pays(const std::vector<LayerPoint>& points,
                                           ComputeType format, Size size_of) {
  std::optional<std::int64_t> least;
  for (auto point = points.rbegin(); point != points.rend(); ++point) {
    const bool pays = share_of_fp32(*point, format) <= kPayingShare;  // nan does not
    if (!pays) break;
    least = size_of(*point);
  }
  return least;
}

}  // namespace

Crossings measure_crossings(const CrossingsOptions& options) {
  HALFTONE_CHECK(std::is_sorted(options.widths.begin(), options.widths.end()) &&
                     std::is_sorted(options.rows.begin(), options.rows.end()),
                 "[crossings] expected ascending widths and rows");
  Crossings crossings{.formats = options.formats};
  const double all = static_cast<double>(options.widths.size() + options.rows.size());
  double done = 0;
  const auto tell = [&] {
    if (options.progress) options.progress(++done / all);
  };
  for (const std::int64_t rows : options.rows) {
    crossings.by_rows.push_back(point_at(rows, crossings.width, options.formats));
    tell();
  }
  const Stopwatch watch;
  for (const std::int64_t width : options.widths) {
    const bool is_late = watch.seconds() > options.seconds_of_widths;
    if (is_late && crossings.by_width.size() >= kLeastWidths) break;
    crossings.by_width.push_back(point_at(crossings.rows, width, options.formats));
    tell();
  }
  return crossings;
}

double share_of_fp32(const LayerPoint& point, ComputeType format) {
  const LayerSpeed* const fp32 = speed_of(point, ComputeType::kFloat32);
  const LayerSpeed* const other = speed_of(point, format);
  if (fp32 == nullptr || other == nullptr || fp32->seconds <= 0) return std::nan("");
  return other->seconds / fp32->seconds;
}

std::optional<std::int64_t> width_that_pays(const Crossings& crossings, ComputeType format) {
  return size_that_pays(crossings.by_width, format,
                        [](const LayerPoint& point) { return point.width; });
}

std::optional<std::int64_t> rows_that_pay(const Crossings& crossings, ComputeType format) {
  return size_that_pays(crossings.by_rows, format,
                        [](const LayerPoint& point) { return point.rows; });
}

double parameters_of_width(std::int64_t width) {
  constexpr double kLayers = 8, kSquaresOfLayer = 12;
  return kLayers * kSquaresOfLayer * static_cast<double>(width * width);
}

}  // namespace halftone
