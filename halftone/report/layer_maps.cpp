// SPDX-License-Identifier: Apache-2.0
#include "halftone/report/layer_maps.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <string_view>
#include <utility>

namespace halftone {
namespace {

struct LayerPicture {
  LayerStatistic statistic;
  const char* title;
  const char* unit;
  const char* color;
  HeatScale scale;
};

constexpr std::array<LayerPicture, 6> kLayerPictures{{
    {LayerStatistic::kGradNorm, "Gradient norm", "without the loss scale", "c1", HeatScale::kLog},
    {LayerStatistic::kGradMax, "Largest gradient", "without the loss scale", "c4", HeatScale::kLog},
    {LayerStatistic::kUpdateRatio, "Update / weight", "norms", "c2", HeatScale::kLog},
    {LayerStatistic::kUnderflowShare, "Underflow", "share of the gradient", "bad",
     HeatScale::kShare},
    {LayerStatistic::kLostUpdates, "Lost updates", "share of the weights", "bad",
     HeatScale::kShare},
    {LayerStatistic::kUnchangedWeights, "Unchanged weights", "rounded at random", "c3",
     HeatScale::kShare},
}};

std::string without_last_part(const std::string& path) {
  const std::size_t dot = path.rfind('.');
  return dot == std::string::npos ? path : path.substr(0, dot);
}

std::string first_parts(const std::string& path, std::size_t parts) {
  std::size_t at = std::string::npos;
  for (std::size_t i = 0; i < parts; ++i) {
    at = path.find('.', at == std::string::npos ? 0 : at + 1);
    if (at == std::string::npos) return path;
  }
  return path.substr(0, at);
}

bool is_digit(char letter) { return letter >= '0' && letter <= '9'; }

std::string_view digits_at(std::string_view text, std::size_t at) {
  std::size_t end = at;
  while (end < text.size() && is_digit(text[end])) ++end;
  return text.substr(at, end - at);
}

void add_value(std::vector<double>& cells, std::size_t column, double value, bool is_norm) {
  cells.resize(std::max(cells.size(), column + 1), std::nan(""));
  double& cell = cells[column];
  cell = is_norm && !std::isnan(cell) && !std::isnan(value) ? std::hypot(cell, value)
                                                            : std::fmax(cell, value);
}

struct PathOrder {
  bool operator()(const std::string& a, const std::string& b) const { return stands_before(a, b); }
};

using LayerRows = std::map<std::string, std::vector<double>, PathOrder>;

LayerRows rows_of(const LayerHistory& layers, LayerStatistic statistic,
                  const std::map<std::string, std::string>& modules) {
  LayerRows rows;
  for (const auto& [name, series] : layers.series()) {
    if (name.statistic != statistic) continue;
    std::vector<double>& cells = rows[modules.at(name.parameter)];
    for (std::size_t i = 0; i < series.size(); ++i)
      add_value(cells, i, series[i], statistic == LayerStatistic::kGradNorm);
  }
  return rows;
}

bool has_any(const LayerRows& rows) {
  return std::any_of(rows.begin(), rows.end(), [](const auto& row) {
    return std::any_of(row.second.begin(), row.second.end(), [](double v) { return v > 0; });
  });
}

std::map<std::string, std::string> modules_by_parameter(const LayerHistory& layers) {
  std::set<std::string> names;
  for (const auto& [name, series] : layers.series()) names.insert(name.parameter);
  const std::vector<std::string> parameters(names.begin(), names.end());
  const std::vector<std::string> modules = modules_of(parameters);
  std::map<std::string, std::string> by_parameter;
  for (std::size_t i = 0; i < parameters.size(); ++i) by_parameter[parameters[i]] = modules[i];
  return by_parameter;
}

}  // namespace

bool stands_before(const std::string& a, const std::string& b) {
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (is_digit(a[i]) && is_digit(b[j])) {
      const std::string_view left = digits_at(a, i), right = digits_at(b, j);
      const auto value = [](std::string_view digits) {
        return digits.substr(std::min(digits.find_first_not_of('0'), digits.size()));
      };
      const std::string_view x = value(left), y = value(right);
      if (x.size() != y.size()) return x.size() < y.size();
      if (x != y) return x < y;
      i += left.size();
      j += right.size();
      continue;
    }
    if (a[i] != b[j]) return a[i] < b[j];
    ++i;
    ++j;
  }
  return a.size() - i < b.size() - j || (i == a.size() && j == b.size() && a < b);
}

std::vector<std::string> modules_of(const std::vector<std::string>& parameters) {
  std::vector<std::string> modules;
  std::size_t deepest = 1;
  for (const std::string& parameter : parameters) {
    modules.push_back(without_last_part(parameter));
    const auto dots = std::count(modules.back().begin(), modules.back().end(), '.');
    deepest = std::max(deepest, static_cast<std::size_t>(dots) + 1);
  }
  const auto count = [&] { return std::set<std::string>(modules.begin(), modules.end()).size(); };
  for (std::size_t parts = deepest; parts > 1 && count() > kMostHeatRows; --parts)
    for (std::string& module : modules) module = first_parts(module, parts - 1);
  return modules;
}

std::vector<HeatMap> layer_maps(const LayerHistory& layers) {
  std::vector<HeatMap> maps;
  if (layers.empty()) return maps;
  const std::map<std::string, std::string> modules = modules_by_parameter(layers);
  std::vector<HeatColumn> columns;
  for (const LayerHistory::Column& column : layers.columns())
    columns.push_back(
        {static_cast<double>(column.first_step), static_cast<double>(column.last_step)});
  for (const LayerPicture& picture : kLayerPictures) {
    const LayerRows rows = rows_of(layers, picture.statistic, modules);
    if (!has_any(rows)) continue;
    HeatMap map{.title = picture.title,
                .unit = picture.unit,
                .color = picture.color,
                .scale = picture.scale,
                .is_wide = false,
                .x = Axis::steps(columns.front().first, columns.back().last, 5),
                .columns = columns,
                .rows = {}};
    for (const auto& [name, cells] : rows) map.rows.push_back({name, cells});
    maps.push_back(std::move(map));
  }
  if (maps.size() % 2 == 1) {
    maps.back().is_wide = true;
    maps.back().x = Axis::steps(columns.front().first, columns.back().last, 10);
  }
  return maps;
}

}  // namespace halftone
