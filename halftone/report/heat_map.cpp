// SPDX-License-Identifier: Apache-2.0
#include "halftone/report/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "halftone/core/text.h"
#include "halftone/report/chart.h"

namespace halftone {
namespace {

constexpr int kHeatLevels = 8;  // classes h0 to h7 of the page
constexpr double kRowHeight = 13;
constexpr double kHeatTop = 4, kHeatBottom = 26, kHeatRight = 52;
constexpr double kLetterWidth = 6.2;  // of a row's name, about

struct HeatRange {
  double low = 0, high = 0;
};

HeatRange heat_range(const HeatMap& map) {
  double low = std::numeric_limits<double>::infinity(), high = 0;
  for (const HeatRow& row : map.rows)
    for (const double value : row.cells)
      if (value > 0 && std::isfinite(value)) {
        low = std::min(low, value);
        high = std::max(high, value);
      }
  if (high == 0) return {};
  if (map.scale == HeatScale::kShare) return {0, std::min(high, 1.0)};
  return {std::max(low, high * std::pow(10.0, -kHeatDecades)), high};
}

/// 0 to kHeatLevels - 1; -1: nothing is drawn.
int level_of(double value, const HeatRange& range, HeatScale scale) {
  if (std::isnan(value) || value <= 0 || range.high <= 0) return -1;
  if (range.low >= range.high) return kHeatLevels - 1;
  const double share = scale == HeatScale::kShare
                           ? value / range.high
                           : std::log(value / range.low) / std::log(range.high / range.low);
  const double level = std::floor(std::clamp(share, 0.0, 1.0) * kHeatLevels);
  return static_cast<int>(std::min<double>(level, kHeatLevels - 1));
}

std::string shown_value(double value, HeatScale scale) {
  if (scale == HeatScale::kLog) return short_number(std::stod(fmt::format("{:.1e}", value)));
  return fmt::format("{:.{}f}%", 100 * value, value > 0 && value < 0.0995 ? 1 : 0);
}

/// "…3.attention.wq": the end tells rows apart.
std::string fitted_name(const std::string& name, std::size_t letters) {
  if (name.size() <= letters) return name;
  std::size_t from = name.size() - letters + 1;
  while (from < name.size() && (static_cast<unsigned char>(name[from]) & 0xC0U) == 0x80U) ++from;
  return "…" + name.substr(from);
}

class HeatPicture {
 public:
  explicit HeatPicture(const HeatMap& map)
      : map_(map),
        range_(heat_range(map)),
        width_(map.is_wide ? 1040 : 508),
        left_(map.is_wide ? 260 : 168),
        height_(kHeatTop + kRowHeight * static_cast<double>(map.rows.size()) + kHeatBottom) {}

  std::string svg() {
    out_ = fmt::format("<svg viewBox=\"0 0 {:g} {:g}\" role=\"img\" aria-label=\"{}, {}\">\n",
                       width_, height_, html_escaped(map_.title), html_escaped(map_.unit));
    for (std::size_t row = 0; row < map_.rows.size(); ++row) add_row(row);
    for (int level = 0; level < kHeatLevels; ++level)
      if (const std::string& path = paths_[static_cast<std::size_t>(level)]; !path.empty())
        out_ += fmt::format("<path class=\"heat {} h{}\" d=\"{}\"/>\n", map_.color, level, path);
    add_steps();
    return std::move(out_) + "</svg>\n";
  }

  std::string legend() const {
    if (range_.high <= 0) return "";
    std::string boxes;
    for (int level = 0; level < kHeatLevels; ++level)
      boxes += fmt::format("<i class=\"shade {} h{}\"></i>", map_.color, level);
    return fmt::format("<p class=\"shades\">{} {} {}</p>", shown_value(range_.low, map_.scale),
                       boxes, shown_value(range_.high, map_.scale));
  }

 private:
  double right() const { return width_ - kHeatRight; }
  double floor() const { return height_ - kHeatBottom; }
  double x(double step) const {
    return left_ + (right() - left_) * std::clamp(map_.x.share(step), 0.0, 1.0);
  }
  // Where a column begins: half-way from the one before.
  double edge(std::size_t column) const {
    if (column == 0) return left_;
    if (column >= map_.columns.size()) return right();
    return x((map_.columns[column - 1].last + map_.columns[column].first) / 2);
  }

  void add_row(std::size_t index);
  void add_steps();

  const HeatMap& map_;
  HeatRange range_;
  double width_, left_, height_;
  std::array<std::string, kHeatLevels> paths_;
  std::string out_;
};

// Neighbours of one colour are one rectangle.
void HeatPicture::add_row(std::size_t index) {
  const HeatRow& row = map_.rows[index];
  const double y = kHeatTop + kRowHeight * static_cast<double>(index);
  const auto letters = static_cast<std::size_t>((left_ - 8) / kLetterWidth);
  out_ += fmt::format(
      "<text class=\"rowname\" x=\"{:g}\" y=\"{:g}\" dy=\".35em\"><title>{}</title>{}</text>\n",
      left_ - 6, y + kRowHeight / 2, html_escaped(row.name),
      html_escaped(fitted_name(row.name, letters)));
  const std::size_t columns = std::min(row.cells.size(), map_.columns.size());
  double last = std::nan("");
  for (std::size_t begin = 0; begin < columns;) {
    const int level = level_of(row.cells[begin], range_, map_.scale);
    std::size_t end = begin;
    for (; end < columns && level_of(row.cells[end], range_, map_.scale) == level; ++end)
      if (!std::isnan(row.cells[end])) last = row.cells[end];
    if (level >= 0)
      paths_[static_cast<std::size_t>(level)] +=
          fmt::format("M{:.1f} {:g}H{:.1f}v{:g}H{:.1f}z", edge(begin), y + 0.5, edge(end),
                      kRowHeight - 1, edge(begin));
    begin = end;
  }
  if (!std::isnan(last))
    out_ +=
        fmt::format("<text class=\"rowvalue\" x=\"{:g}\" y=\"{:g}\" dy=\".35em\">{}</text>\n",
                    right() + 6, y + kRowHeight / 2, html_escaped(shown_value(last, map_.scale)));
}

void HeatPicture::add_steps() {
  out_ +=
      fmt::format("<line class=\"base\" x1=\"{0:g}\" x2=\"{1:g}\" y1=\"{2:g}\" y2=\"{2:g}\"/>\n",
                  left_, right(), floor());
  for (const Tick& tick : map_.x.ticks())
    out_ += fmt::format(
        "<line class=\"base\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:g}\" y2=\"{2:g}\"/>"
        "<text class=\"xtick\" x=\"{0:.1f}\" y=\"{3:g}\">{4}</text>\n",
        x(tick.value), floor(), floor() + 4, floor() + 17, html_escaped(tick.label));
  out_ += fmt::format("<text class=\"xname\" x=\"{:g}\" y=\"{:g}\">step</text>\n", width_ - 4,
                      floor() + 17);
}

}  // namespace

std::string figure_of(const HeatMap& map) {
  HeatPicture picture(map);
  return fmt::format("<figure{}>\n<figcaption><h3>{} <small>{}</small></h3>{}</figcaption>\n",
                     map.is_wide ? " class=\"wide\"" : "", html_escaped(map.title),
                     html_escaped(map.unit), picture.legend()) +
         picture.svg() + "</figure>\n";
}

}  // namespace halftone
