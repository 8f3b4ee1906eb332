// SPDX-License-Identifier: Apache-2.0
#include "cli/doctor_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>

#include "halftone/core/text.h"
#include "halftone/kernels/gemm/compute_type.h"

namespace halftone::cli {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t kTextWidth = 96;

/// `text` in lines of at most kTextWidth letters, each behind `indent` blanks but the first.
std::string wrapped(std::string_view text, std::size_t indent) {
  std::string lines;
  std::size_t column = indent;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (column > indent && column + 1 + word.size() > kTextWidth) {
      lines += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      lines += ' ';
      ++column;
    }
    lines += word;
    column += word.size();
  }
  return lines;
}

std::string width_text(const Crossings& crossings, ComputeType format) {
  const std::int64_t widest = crossings.by_width.back().width;
  const std::optional<std::int64_t> width = width_that_pays(crossings, format);
  if (!width) return fmt::format("at no width up to {}", widest);
  return fmt::format("from width {} ({} parameters)", *width,
                     short_count(parameters_of_width(*width)));
}

std::string rows_text(const Crossings& crossings, ComputeType format) {
  const std::int64_t most = crossings.by_rows.back().rows;
  const std::optional<std::int64_t> rows = rows_that_pay(crossings, format);
  return rows ? fmt::format("from {} row{}", *rows, *rows == 1 ? "" : "s")
              : fmt::format("at no number up to {}", most);
}

std::string shares_text(const char* title, const std::vector<LayerPoint>& points,
                        const Crossings& crossings, std::int64_t LayerPoint::*size) {
  std::string text = fmt::format("  {:<24}", title);
  for (const LayerPoint& point : points) text += fmt::format(" {:>6}", point.*size);
  text += '\n';
  for (std::size_t i = 1; i < crossings.formats.size(); ++i) {
    text += fmt::format("    {:<22}", fp32_weights_precision(crossings.formats[i]));
    for (const LayerPoint& point : points)
      text += fmt::format(" {:>5.2f}x", share_of_fp32(point, crossings.formats[i]));
    text += '\n';
  }
  return text;
}

ordered_json points_json(const std::vector<LayerPoint>& points) {
  ordered_json all = ordered_json::array();
  for (const LayerPoint& point : points) {
    ordered_json times = ordered_json::object();
    for (const LayerSpeed& speed : point.speeds)
      times[fp32_weights_precision(speed.compute)] = 1e3 * speed.seconds;
    all.push_back({{"rows", point.rows}, {"width", point.width}, {"layer_ms", std::move(times)}});
  }
  return all;
}

template <class Value>
ordered_json or_null(const std::optional<Value>& value) {
  return value ? ordered_json(*value) : ordered_json(nullptr);
}

ordered_json positive_or_null(double value) {
  return value > 0 ? ordered_json(value) : ordered_json(nullptr);
}

}  // namespace

std::string costs_text(const DoctorReport& report) {
  std::string text = "\nthreads   ";
  for (const ThreadSpeed& speed : report.thread_speeds)
    text += fmt::format("{} {}: {:.0f} GFLOP/s", &speed == &report.thread_speeds.front() ? "" : ",",
                        speed.threads, speed.gflops);
  text += fmt::format(" (fp32 matmul); an empty parallel loop takes {:.1f} us\n",
                      1e6 * report.parallel_loop_s);
  const PageCosts& pages = report.pages;
  if (pages.fresh_s <= 0) return text;
  text += fmt::format(
      "new pages  writing 1 GiB takes {:.2f} s on new memory, {}{:.2f} s on memory "
      "that the process had before\n",
      pages.fresh_s,
      pages.fresh_large_s > 0 ? fmt::format("{:.2f} s on new large pages, ", pages.fresh_large_s)
                              : "",
      pages.again_s);
  return text;
}

std::string crossings_text(const DoctorReport& report) {
  if (!report.crossings) return "";
  const Crossings& crossings = *report.crossings;
  std::string text = fmt::format(
      "\nfrom where on mixed precision pays here (a layer's matmuls with all casts in {:.1f} of "
      "their "
      "fp32 time)\n  {:<13} {:<37} {}\n",
      kPayingShare, "precision", fmt::format("over {} rows", crossings.rows),
      fmt::format("at width {}", crossings.width));
  for (std::size_t i = 1; i < crossings.formats.size(); ++i)
    text += fmt::format("  {:<13} {:<37} {}\n", fp32_weights_precision(crossings.formats[i]),
                        width_text(crossings, crossings.formats[i]),
                        rows_text(crossings, crossings.formats[i]));
  text +=
      "  rows: tokens or samples of a micro-batch; parameters: of 8 transformer layers of that "
      "width\n\n";
  text += shares_text("time to fp32, by width", crossings.by_width, crossings, &LayerPoint::width);
  return text + shares_text("by rows", crossings.by_rows, crossings, &LayerPoint::rows);
}

std::string findings_text(const std::vector<Finding>& findings) {
  if (findings.empty()) return "\nnothing else was found that costs time here\n";
  std::string text = "\nwhat costs most here, and what helps\n";
  bool tells_of_others = false;
  int number = 0;
  for (const Finding& finding : findings) {
    if (finding.is_avoided && !tells_of_others) {
      text += "  halftone avoids by itself, other programs on LibTorch may not:\n";
      tells_of_others = true;
    }
    const std::string gain = finding.gain > 0 ? fmt::format("{:.1f}x", finding.gain) : "";
    text += fmt::format("  {:>2}. {:>6}  {}\n              {}\n", ++number, gain,
                        wrapped(finding.statement, 14), wrapped("-> " + finding.remedy, 14));
  }
  return text;
}

ordered_json threads_json(const DoctorReport& report) {
  ordered_json speeds = ordered_json::array();
  for (const ThreadSpeed& speed : report.thread_speeds)
    speeds.push_back({{"threads", speed.threads}, {"gflops", speed.gflops}});
  return {{"fp32_matmul", std::move(speeds)}, {"empty_parallel_loop_s", report.parallel_loop_s}};
}

ordered_json memory_costs_json(const DoctorReport& report) {
  return {{"new_pages_s_per_gib", positive_or_null(report.pages.fresh_s)},
          {"new_large_pages_s_per_gib", positive_or_null(report.pages.fresh_large_s)},
          {"known_pages_s_per_gib", positive_or_null(report.pages.again_s)}};
}

ordered_json crossings_json(const DoctorReport& report) {
  if (!report.crossings) return nullptr;
  const Crossings& crossings = *report.crossings;
  ordered_json pays = ordered_json::array();
  for (std::size_t i = 1; i < crossings.formats.size(); ++i) {
    const std::optional<std::int64_t> width = width_that_pays(crossings, crossings.formats[i]);
    pays.push_back({{"precision", fp32_weights_precision(crossings.formats[i])},
                    {"from_width", or_null(width)},
                    {"from_parameters",
                     width ? ordered_json(parameters_of_width(*width)) : ordered_json(nullptr)},
                    {"from_rows", or_null(rows_that_pay(crossings, crossings.formats[i]))}});
  }
  return {{"rows", crossings.rows},
          {"width", crossings.width},
          {"paying_share", kPayingShare},
          {"pays", std::move(pays)},
          {"by_width", points_json(crossings.by_width)},
          {"by_rows", points_json(crossings.by_rows)}};
}

ordered_json findings_json(const std::vector<Finding>& findings) {
  ordered_json all = ordered_json::array();
  for (const Finding& finding : findings)
    all.push_back({{"what", finding.what},
                   {"statement", finding.statement},
                   {"remedy", finding.remedy},
                   {"gain", positive_or_null(finding.gain)},
                   {"avoided_by_halftone", finding.is_avoided}});
  return all;
}

}  // namespace halftone::cli
