// SPDX-License-Identifier: Apache-2.0
// The statistics of layers over a run in bounded memory: neighbouring samples share a column that
// keeps their largest values.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "halftone/run/layer_metrics.h"

namespace halftone {

/// A statistic of a parameter.
struct LayerSeriesName {
  LayerStatistic statistic;
  std::string parameter;
  auto operator<=>(const LayerSeriesName&) const = default;
};

class LayerHistory {
 public:
  /// Up to so many sampled steps, each has a column of its own.
  static constexpr std::size_t kMaxColumns = 96;
  /// At most so many series are kept, those that come first.
  static constexpr std::size_t kMaxSeries = 8192;

  struct Column {
    std::int64_t first_step = 0, last_step = 0;
  };
  /// One value a column; nan where there is none. May be shorter than the columns.
  using Series = std::vector<float>;

  /// Whether there is room for the series. nan: a value that can't be drawn. REQUIRES steps that do
  /// not fall.
  bool add(std::int64_t step, const LayerSeriesName& name, double value);

  bool empty() const { return series_.empty(); }
  const std::vector<Column>& columns() const { return columns_; }
  const std::map<LayerSeriesName, Series>& series() const { return series_; }
  /// Samples of a column, the last excepted.
  std::int64_t width() const { return width_; }

 private:
  void begin_sample(std::int64_t step);
  void halve();

  std::vector<Column> columns_;
  std::map<LayerSeriesName, Series> series_;
  std::int64_t width_ = 1;
  std::int64_t samples_in_last_ = 0;
};

}  // namespace halftone
