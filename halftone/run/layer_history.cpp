// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/layer_history.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace halftone {
namespace {

constexpr float kNothing = std::numeric_limits<float>::quiet_NaN();

// fmax() takes the other one where one is nan.
void merge(float& into, float value) { into = std::fmax(into, value); }

}  // namespace

bool LayerHistory::add(std::int64_t step, const LayerSeriesName& name, double value) {
  auto found = series_.find(name);
  if (found == series_.end()) {
    if (std::isnan(value)) return true;  // a history begins with a number
    if (series_.size() >= kMaxSeries) return false;
    found = series_.emplace(name, Series()).first;
  }
  if (columns_.empty() || step > columns_.back().last_step) begin_sample(step);
  Series& series = found->second;
  series.resize(columns_.size(), kNothing);
  merge(series.back(), static_cast<float>(value));
  return true;
}

void LayerHistory::begin_sample(std::int64_t step) {
  if (!columns_.empty() && samples_in_last_ < width_) {
    columns_.back().last_step = step;
    ++samples_in_last_;
    return;
  }
  if (columns_.size() == kMaxColumns) halve();
  columns_.push_back({step, step});
  samples_in_last_ = 1;
}

void LayerHistory::halve() {
  width_ *= 2;
  std::vector<Column> columns((columns_.size() + 1) / 2);
  for (std::size_t i = 0; i < columns.size(); ++i)
    columns[i] = {columns_[2 * i].first_step,
                  columns_[std::min(2 * i + 1, columns_.size() - 1)].last_step};
  for (auto& [name, series] : series_) {
    Series merged((series.size() + 1) / 2, kNothing);
    for (std::size_t i = 0; i < series.size(); ++i) merge(merged[i / 2], series[i]);
    series = std::move(merged);
  }
  columns_ = std::move(columns);
}

}  // namespace halftone
