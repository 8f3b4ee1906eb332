// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "halftone/core/page_style_impl.h"
#include "halftone/core/text.h"
#include "halftone/probe/probe_report.h"
#include "halftone/probe/probe_style_impl.h"

namespace halftone {
namespace {

constexpr std::size_t kShownRows = 25;  // of a table; the rest is folded

std::string code(std::string_view text) { return "<code>" + html_escaped(text) + "</code>"; }

const char* direction_of(bool is_backward) { return is_backward ? "backward" : "forward"; }

std::string percent(double share) {
  if (share == 0.0) return "0";
  return share < 1e-4 ? "&lt; 0.01 %" : fmt::format("{:.3g} %", 100 * share);
}

std::string number(double value) {
  return std::isfinite(value) ? fmt::format("{:.3g}", value) : "not finite";
}

/// A bar of `share` of the cell's width.
std::string bar(double share, const char* colour) {
  const double width = std::clamp(100 * share, share > 0 ? 1.0 : 0.0, 100.0);
  return fmt::format("<td class=\"bar\"><span class=\"{}\" style=\"width:{:.1f}%\"></span></td>",
                     colour, width);
}

/// The rows, with those beyond kShownRows folded away.
std::string table(const std::string& head, const std::vector<std::string>& rows) {
  const std::string begin =
      "<div class=\"scroll\"><table><thead><tr>" + head + "</tr></thead><tbody>\n";
  const std::string end = "</tbody></table></div>\n";
  std::string text = begin;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i == kShownRows)
      text += end + fmt::format("<details><summary>{} more</summary>\n", rows.size() - i) + begin;
    text += "<tr>" + rows[i] + "</tr>\n";
  }
  return text + end + (rows.size() > kShownRows ? "</details>\n" : "");
}

bool has_mode(const ProbeReport& report, std::string_view mode) {
  return std::find(report.run.modes.begin(), report.run.modes.end(), mode) !=
         report.run.modes.end();
}

// ---- the find

std::string headline(const ProbeReport& report) {
  if (const auto& find = report.first_nonfinite) {
    const std::string where = find->module.empty() ? "" : " in " + find->module;
    return fmt::format("<h1 class=\"bad\">{} {}</h1>\n", html_escaped(find->operation + where),
                       html_escaped(verdict_of(*find)));
  }
  if (!has_mode(report, "first-nonfinite"))
    return fmt::format("<h1>{} of {} steps watched</h1>\n", report.run.sampled_steps,
                       report.run.steps);
  return fmt::format("<h1 class=\"good\">No bad operation in {} of {} steps</h1>\n",
                     report.run.searched_steps, report.run.steps);
}

void add_fact(std::string& text, const char* name, const std::string& value) {
  if (!value.empty()) text += fmt::format("<dt>{}</dt><dd>{}</dd>\n", name, value);
}

std::string inputs_table(const std::vector<ProbeReport::Input>& inputs) {
  std::vector<std::string> rows;
  for (const ProbeReport::Input& input : inputs) {
    const std::string bad =
        input.non_finite == 0 ? "0"
                              : fmt::format("<span class=\"badtext\">{}</span>", input.non_finite);
    rows.push_back(fmt::format(
        "<td class=\"op\">{}</td><td>{}</td><td class=\"n\">[{}]</td><td class=\"n\">{}</td>"
        "<td class=\"n\">{}</td>",
        html_escaped(input.name), html_escaped(input.dtype), fmt::join(input.shape, ", "),
        number(input.max_abs), bad));
  }
  return table(
      "<th>it reads</th><th>dtype</th><th class=\"n\">shape</th>"
      "<th class=\"n\">largest finite value</th><th class=\"n\">not finite</th>",
      rows);
}

std::string find_card(const ProbeReport::Find& find) {
  std::string facts;
  add_fact(facts, "operation", code(find.operation));
  add_fact(facts, "direction", direction_of(find.is_backward));
  add_fact(facts, "kind", html_escaped(find.kind));
  add_fact(facts, "why", html_escaped(find.reason));
  add_fact(facts, "module", find.module.empty() ? "" : code(find.module));
  add_fact(facts, "step of autograd", find.autograd_node.empty() ? "" : code(find.autograd_node));
  add_fact(facts, "gradient of", find.forward.empty() ? "" : code(find.forward));
  std::string names;
  for (const std::string& name : find.parameters) names += (names.empty() ? "" : ", ") + code(name);
  add_fact(facts, "parameters", names);
  add_fact(
      facts, "when",
      fmt::format("step {}, call {} of the operation in this direction", find.step, find.call));
  return "<div class=\"card bad\"><dl class=\"facts\">\n" + facts + "</dl>\n" +
         (find.inputs.empty() ? "" : inputs_table(find.inputs)) + "</div>\n";
}

// ---- the rest

std::string tile(const std::string& name, const std::string& value, const std::string& more) {
  return fmt::format("<div><dt>{}</dt><dd>{}<small>{}</small></dd></div>\n", name, value, more);
}

std::string tiles(const ProbeReport& report) {
  const ProbeReport::Run& run = report.run;
  std::string text = "<dl class=\"tiles\">\n";
  text += tile("steps", std::to_string(run.steps), "backward passes and their updates");
  if (has_mode(report, "first-nonfinite"))
    text += tile("searched", std::to_string(run.searched_steps), "for the first bad operation");
  if (run.modes.size() > (has_mode(report, "first-nonfinite") ? 1U : 0U))
    text += tile("sampled", std::to_string(run.sampled_steps), "for the tables below");
  const double share = run.seconds > 0 ? run.watched_seconds / run.seconds : 0.0;
  text += tile("time", fmt::format("{:.1f} s", run.seconds),
               fmt::format("{} of it in the probe", percent(share)));
  return text + "</dl>\n";
}

std::string scale_note(const ProbeReport::ScaledOverflow& overflow) {
  if (overflow.steps == 0) return "";
  return fmt::format(
      "<p class=\"note\">In {} {} gradients overflowed, first in {}{}, and the program looked for "
      "that: a GradScaler that begins with a large scale skips such steps. It is no fault.</p>\n",
      overflow.steps, overflow.steps == 1 ? "step" : "steps", code(overflow.operation),
      overflow.module.empty() ? "" : " of " + code(overflow.module));
}

std::string operation_cells(const std::string& operation, bool is_backward,
                            const std::string& dtype, std::int64_t calls) {
  return fmt::format("<td class=\"op\">{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td>",
                     html_escaped(operation), direction_of(is_backward), html_escaped(dtype),
                     calls);
}

constexpr const char* kOperationHead =
    "<th>operation</th><th>direction</th><th>dtype</th><th class=\"n\">calls</th>";

std::string underflow_section(const ProbeReport& report) {
  std::vector<std::string> rows;
  for (const ProbeReport::Underflow& entry : report.underflow) {
    const std::string over = percent(entry.overflowed_share);
    rows.push_back(
        operation_cells(entry.operation, entry.is_backward, entry.dtype, entry.calls) +
        fmt::format("<td class=\"n\">{}</td>", percent(entry.flushed_share)) +
        bar(entry.flushed_share, "c1") +
        fmt::format("<td class=\"n\">{}</td>", entry.overflowed_share > 0
                                                   ? "<span class=\"badtext\">" + over + "</span>"
                                                   : over));
  }
  return "<section><h2>Flushed and overflowed</h2>\n<p>The share of an operation's results that "
         "are zero, or not finite, and are not so when the same inputs are computed in "
         "fp32.</p>\n" +
         table(std::string(kOperationHead) +
                   "<th class=\"n\">flushed to zero</th><th></th><th class=\"n\">overflowed</th>",
               rows) +
         "</section>\n";
}

std::string compare_section(const ProbeReport& report) {
  constexpr double kLeast = 1e-6;  // where the bars begin; they are logarithmic
  std::vector<std::string> rows;
  for (const ProbeReport::Comparison& entry : report.comparisons) {
    const double length = std::isfinite(entry.relative_error)
                              ? std::log10(std::max(entry.relative_error, kLeast) / kLeast) / 6
                              : 1.0;
    rows.push_back(operation_cells(entry.operation, entry.is_backward, entry.dtype, entry.calls) +
                   fmt::format("<td class=\"n\">{}</td>", number(entry.relative_error)) +
                   bar(length, entry.relative_error > 0.05 ? "c5" : "c1") +
                   fmt::format("<td class=\"n\">{:.6f}</td>", entry.cosine));
  }
  std::string text =
      "<section><h2>Beside fp32</h2>\n<p>Each operation's results beside those of the same "
      "operation in fp32, from the same inputs: |difference| / |fp32| over all calls, and the "
      "cosine between both. bf16 rounds to about 0.002, fp16 to 0.0003. The bars are "
      "logarithmic.</p>\n" +
      table(std::string(kOperationHead) +
                "<th class=\"n\">relative error</th><th></th><th class=\"n\">cosine</th>",
            rows);
  if (!report.run.not_compared.empty()) {
    text += "<p class=\"note\">Without an fp32 of their own: ";
    for (std::size_t i = 0; i < report.run.not_compared.size(); ++i)
      text += (i == 0 ? "" : ", ") + code(report.run.not_compared[i]);
    text += "</p>\n";
  }
  return text + "</section>\n";
}

using Counts = std::map<std::string, std::int64_t>;

std::int64_t total(const Counts& counts) {
  std::int64_t sum = 0;
  for (const auto& [dtype, calls] : counts) sum += calls;
  return sum;
}

const char* colour_of(std::string_view dtype) {
  constexpr std::pair<std::string_view, const char*> kColours[] = {
      {"fp32", "c1"}, {"bf16", "c2"}, {"fp16", "c3"}, {"fp64", "c4"}};
  for (const auto& [name, colour] : kColours)
    if (name == dtype) return colour;
  return dtype.starts_with("fp8") ? "c5" : "c6";
}

std::string census_section(const ProbeReport& report) {
  std::vector<std::pair<std::string, Counts>> operations(report.census.begin(),
                                                         report.census.end());
  std::stable_sort(operations.begin(), operations.end(),
                   [](const auto& a, const auto& b) { return total(a.second) > total(b.second); });
  Counts dtypes;
  std::vector<std::string> rows;
  for (const auto& [operation, counts] : operations) {
    std::string words, bars;
    const auto all = static_cast<double>(total(counts));
    for (const auto& [dtype, calls] : counts) {
      dtypes[dtype] += calls;
      words += fmt::format("{}{} {}", words.empty() ? "" : ", ", html_escaped(dtype), calls);
      bars += fmt::format("<i class=\"{}\" style=\"width:{:.1f}%\"></i>", colour_of(dtype),
                          100 * static_cast<double>(calls) / all);
    }
    rows.push_back(
        fmt::format("<td class=\"op\">{}</td><td class=\"n\">{}</td>"
                    "<td class=\"bar\">{}</td><td>{}</td>",
                    html_escaped(operation), total(counts), bars, words));
  }
  std::string legend = "<div class=\"legend\">";
  for (const auto& [dtype, calls] : dtypes)
    legend +=
        fmt::format("<span><b class=\"{}\"></b>{}</span>", colour_of(dtype), html_escaped(dtype));
  return "<section><h2>Dtypes</h2>\n<p>In which dtype each operation gave its result, and how "
         "often. Operations that consist of others are counted beside these.</p>\n" +
         legend + "</div>\n" +
         table("<th>operation</th><th class=\"n\">calls</th><th></th><th>by dtype</th>", rows) +
         "</section>\n";
}

}  // namespace

std::string probe_page(const ProbeReport& report) {
  std::string text =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n<title>halftone probe</title>\n<style>";
  text += kPageStyle;
  text += kProbeStyle;
  text += "</style></head>\n<body><main>\n<header><p class=\"kind\">halftone probe</p>\n";
  text += headline(report);
  text += "<p class=\"program\">" + code(report.run.program) + "</p></header>\n";
  if (report.first_nonfinite) text += find_card(*report.first_nonfinite);
  text += tiles(report) + scale_note(report.scaled_overflow);
  if (has_mode(report, "underflow")) text += underflow_section(report);
  if (has_mode(report, "compare")) text += compare_section(report);
  if (has_mode(report, "census")) text += census_section(report);
  text += fmt::format("<footer>LibTorch {}. The same numbers are in probe.json.</footer>\n",
                      html_escaped(report.run.libtorch));
  return text + "</main></body></html>\n";
}

}  // namespace halftone
