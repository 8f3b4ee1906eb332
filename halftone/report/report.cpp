// SPDX-License-Identifier: Apache-2.0
#include "halftone/report/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>

#include "halftone/core/page_style_impl.h"
#include "halftone/core/text.h"
#include "halftone/report/chart.h"
#include "halftone/report/layer_maps.h"
#include "halftone/report/logged_charts.h"
#include "halftone/report/report_charts.h"
#include "halftone/report/report_pictures.h"
#include "halftone/report/report_style.h"
#include "halftone/system/atomic_file.h"

namespace halftone {
namespace {

constexpr std::int64_t kShownOverflows = 12;

std::string with_separators(std::int64_t number) {
  std::string text = std::to_string(number);
  for (std::ptrdiff_t at = std::ssize(text) - 3; at > 0; at -= 3)
    text.insert(static_cast<std::size_t>(at), ",");
  return text;
}

std::string shown_mib(double mib) {
  return format_bytes(static_cast<std::uint64_t>(std::clamp(mib, 0.0, 1e12) * 1024 * 1024));
}

// Whole where it is: "65,536".
std::string shown_scale(double scale) {
  constexpr double kMostWhole = 1e12;
  const auto whole = static_cast<std::int64_t>(std::clamp(scale, 0.0, kMostWhole));
  return static_cast<double>(whole) == scale ? with_separators(whole) : short_number(scale);
}

/// A number that matters, and what it is.
std::string tile(const std::string& name, const std::string& value, const std::string& more = "") {
  return fmt::format("<div><dt>{}</dt><dd>{}{}</dd></div>\n", name, value,
                     more.empty() ? "" : fmt::format("<small>{}</small>", more));
}

std::string loss_tile(const RunTotals& totals) {
  if (!totals.first_loss) return tile("loss", "none", "never finite");
  return tile(
      "loss",
      fmt::format("{} <span class=\"to\">→</span> {}", short_number(totals.first_loss->value),
                  short_number(totals.last_loss->value)),
      "first and last step");
}

std::string tiles(const RunTotals& totals) {
  std::string text = "<dl class=\"tiles\">\n" + loss_tile(totals);
  if (totals.best_validation)
    text += tile("best validation loss", short_number(totals.best_validation->value),
                 fmt::format("at step {}", with_separators(totals.best_validation->step)));
  text += tile("steps", with_separators(totals.steps),
               totals.skipped > 0 ? fmt::format("{} skipped", with_separators(totals.skipped))
                                  : "none skipped");
  if (totals.tokens > 0) text += tile("tokens", short_number(totals.tokens), "trained on");
  if (totals.seconds > 0) {
    text += tile("time", format_seconds(totals.seconds), "in training steps");
    text +=
        totals.tokens > 0
            ? tile("speed", short_number(totals.tokens / totals.seconds), "tokens per second")
            : tile("speed", short_number(1e3 * totals.seconds / static_cast<double>(totals.steps)),
                   "ms a step");
  }
  if (totals.peak_rss_mib > 0)
    text += tile("peak memory", shown_mib(totals.peak_rss_mib), "resident");
  if (totals.peak_cuda_mib > 0)
    text += tile("peak GPU memory", shown_mib(totals.peak_cuda_mib), "tensors");
  return text + "</dl>\n";
}

std::string facts(const RunDescription& description) {
  std::string text = "<dl class=\"facts\">\n";
  for (const auto& [name, value] : description.facts)
    text += fmt::format("<dt>{}</dt><dd>{}</dd>\n", html_escaped(name), html_escaped(value));
  return text + "</dl>\n";
}

std::string notes(const RunHistory& history, bool ends_torn) {
  std::string text;
  const std::int64_t unusable = history.unusable_lines() + (ends_torn ? 1 : 0);
  if (unusable > 0)
    text += fmt::format(
        "<p class=\"note\">{} of metrics.jsonl could not be used (torn, damaged, out of order or "
        "not of this program) and {} missing here.</p>\n",
        unusable == 1 ? "1 line" : with_separators(unusable) + " lines",
        unusable == 1 ? "is" : "are");
  if (const std::int64_t broken = history.totals().broken_losses; broken > 0)
    text +=
        fmt::format("<p class=\"note\">In {} the loss was not finite: a gap in its curve.</p>\n",
                    broken == 1 ? "1 step" : with_separators(broken) + " steps");
  if (const std::size_t left_out = history.names_left_out(); left_out > 0)
    text += fmt::format(
        "<p class=\"note\">{} that metrics.jsonl has {} not drawn: a page shows the first {} "
        "logged "
        "values, with names of up to {} bytes.</p>\n",
        left_out == 1 ? "1 value"
                      : with_separators(static_cast<std::int64_t>(left_out)) + " values",
        left_out == 1 ? "is" : "are", RunHistory::kKeptNames, RunHistory::kLongestName);
  return text;
}

std::string skip_row(const SkippedStep& skip) {
  std::string names;
  for (const std::string& name : skip.tensors)
    names += fmt::format("{}<code>{}</code>", names.empty() ? "" : ", ", html_escaped(name));
  if (const std::int64_t more = skip.tensor_count - std::ssize(skip.tensors); more > 0)
    names += fmt::format(" and {} more", with_separators(more));
  return fmt::format(
      "<tr><td class=\"number\">{}</td><td class=\"number\">{}</td><td>{}</td></tr>\n",
      with_separators(skip.step), skip.scale ? shown_scale(*skip.scale) : "", names);
}

std::string skip_table(const RunHistory& history) {
  std::string text =
      "<table><thead><tr><th class=\"number\">Step</th><th class=\"number\">Loss scale</th>"
      "<th>Gradients that were not finite</th></tr></thead><tbody>\n";
  for (const SkippedStep& skip : history.first_skips()) text += skip_row(skip);
  const std::int64_t between = history.totals().skipped - std::ssize(history.first_skips()) -
                               std::ssize(history.last_skips());
  if (between > 0)
    text += fmt::format("<tr><td colspan=\"3\" class=\"between\">{} more</td></tr>\n",
                        with_separators(between));
  for (const SkippedStep& skip : history.last_skips()) text += skip_row(skip);
  return text + "</tbody></table>\n";
}

std::string overflow_table(const RunHistory& history) {
  if (history.overflows().empty()) return "";
  std::vector<std::pair<std::string, std::int64_t>> counts(history.overflows().begin(),
                                                           history.overflows().end());
  std::stable_sort(counts.begin(), counts.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  std::string text =
      "<table><thead><tr><th class=\"number\">Steps</th><th>Overflowed most often</th></tr></thead>"
      "<tbody>\n";
  const std::int64_t shown = std::min(std::ssize(counts), kShownOverflows);
  for (const auto& [name, times] : std::span(counts).first(static_cast<std::size_t>(shown)))
    text += fmt::format("<tr><td class=\"number\">{}</td><td><code>{}</code></td></tr>\n",
                        with_separators(times), html_escaped(name));
  if (std::ssize(counts) > shown)
    text += fmt::format("<tr><td></td><td class=\"between\">and {} more tensors</td></tr>\n",
                        with_separators(std::ssize(counts) - kShownOverflows));
  return text + "</tbody></table>\n";
}

std::string skips(const RunHistory& history) {
  const RunTotals& totals = history.totals();
  if (totals.skipped == 0) return "";
  return fmt::format(
             "<section><h2>Skipped steps</h2>\n<p>{} of {} updates were skipped, because "
             "gradients were not finite.</p>\n<div class=\"tables\">",
             with_separators(totals.skipped), with_separators(totals.steps)) +
         skip_table(history) + overflow_table(history) + "</div></section>\n";
}

std::string layers(const LayerHistory& history) {
  const std::vector<HeatMap> maps = layer_maps(history);
  if (maps.empty()) return "";
  std::string text =
      "<section><h2>Layers</h2>\n<p>Measured in sampled steps: the stronger the colour, the larger "
      "the value. Beside each row stands its last one.</p>\n<div class=\"charts\">\n";
  for (const HeatMap& map : maps) text += figure_of(map);
  return text + "</div></section>\n";
}

std::string charts(const RunHistory& history) {
  if (history.steps().empty()) return "<p class=\"note\">No step has been taken yet.</p>\n";
  std::string text = "<section class=\"charts\">\n";
  for (const Chart& chart : report_charts(history)) text += figure_of(chart);
  text += "</section>\n" + layers(history.layers());
  const std::vector<Chart> logged = logged_charts(history);
  if (logged.empty()) return text;
  text += "<section><h2>Logged values</h2>\n<div class=\"charts\">\n";
  for (const Chart& chart : logged) text += figure_of(chart);
  return text + "</div></section>\n";
}

}  // namespace

std::string report_page(const RunHistory& history, const RunDescription& description,
                        bool ends_torn) {
  const std::string name = html_escaped(description.name);
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src "
      "data:; style-src 'unsafe-inline'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n"
      "<title>{} - halftone</title>\n<style>{}{}</style>\n</head>\n<body>\n<main>\n",
      name, kPageStyle, kReportStyle);
  page += fmt::format("<header><p class=\"kind\">halftone run</p><h1>{}</h1><p>{}</p></header>\n",
                      name, html_escaped(description.state));
  if (!history.steps().empty()) page += tiles(history.totals());
  page += facts(description) + notes(history, ends_torn) + charts(history) +
          picture_section(description.pictures) + skips(history);
  if (!description.config.empty())
    page += "<section><h2>Configuration</h2>\n<pre>" + html_escaped(description.config) +
            "</pre></section>\n";
  return page + "</main>\n</body>\n</html>\n";
}

void write_report(const std::filesystem::path& metrics, const RunDescription& description,
                  const std::filesystem::path& report) {
  MetricsReader reader(metrics);
  reader.read_on();
  write_file_atomically(report, report_page(reader.history(), description, reader.ends_torn()));
}

}  // namespace halftone
