// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "halftone/core/text.h"
#include "halftone/diagnostics/compare/compare_summary.h"
#include "halftone/diagnostics/compare/compare_table_impl.h"
#include "halftone/report/chart.h"

namespace halftone {
namespace {

/// Where a ratio stands on a bar that goes from a tenth to a hundred, in percent.
double bar_width(double ratio) {
  constexpr double kDecades = 3;
  if (!(ratio > 0)) return 0;
  return std::isinf(ratio) ? 100 : 100 * std::clamp((std::log10(ratio) + 1) / kDecades, 0.0, 1.0);
}

/// "halftone::linear #0.0 · activation · fp16 · 8 × 256 × 512"
std::string about(const TensorComparison& tensor, const std::string& what) {
  return (what.empty() ? "" : html_escaped(what) + " · ") + kind_words(tensor.kind) + " · " +
         html_escaped(tensor.dtype) + " · " +
         (tensor.shape.empty() ? "scalar"
                               : fmt::format("{}", fmt::join(tensor.shape, "\u00a0×\u00a0")));
}

std::string number_cell(const std::string& text) {
  return fmt::format("<td class=\"number\">{}</td>", html_escaped(text));
}

std::string ratio_cell(const TensorComparison& tensor) {
  const double ratio = error_ratio(tensor);
  return fmt::format(
      "<td class=\"ratio\">{}<span class=\"bar\" aria-hidden=\"true\"><i style=\"--w:{:.1f}%\"></i>"
      "<b></b></span></td>",
      html_escaped(times_of(tensor)), bar_width(ratio));
}

std::string what_if_cell(const TensorComparison& tensor, const std::string& format,
                         std::size_t column) {
  const auto found = std::find_if(tensor.what_if.begin(), tensor.what_if.end(),
                                  [&](const WhatIf& what_if) { return what_if.format == format; });
  if (found == tensor.what_if.end()) return fmt::format("<td class=\"w w{}\"></td>", column);
  const StorageLoss& loss = found->loss;
  const std::string more = loss.overflowed_share > 0
                               ? shown_share(loss.overflowed_share) + " overflow"
                               : shown_share(loss.flushed_share) + " flushed";
  return fmt::format("<td class=\"w w{}\"><span class=\"{}\">{}</span><small>{}</small></td>",
                     column, could_store(*found) ? "yes" : "no",
                     html_escaped(shown_error(loss.relative_error)), html_escaped(more));
}

std::string row_of(const TensorComparison& tensor, std::size_t index,
                   const std::vector<std::string>& what_ifs) {
  const TensorWords name = halftone::words_of(tensor);
  std::string text = fmt::format(
      "<tr class=\"row {0}\" data-i=\"{1}\"><td class=\"what\"><span class=\"label\">{2}"
      "<span>{0}</span></span></td><td class=\"name\"><button type=\"button\" "
      "aria-expanded=\"false\"><code>{3}</code></button><small>{4}</small></td>",
      to_string(tensor.verdict), index, mark_of(tensor.verdict), html_escaped(name.where),
      about(tensor, name.what));
  text += number_cell(shown_error(tensor)) + number_cell(shown_error(tensor.tolerance)) +
          ratio_cell(tensor) + number_cell(shown_cosine(tensor)) +
          number_cell(shown_error(tensor.largest_ulp)) +
          number_cell(shown_share(tensor.flushed_share)) +
          number_cell(shown_share(tensor.overflowed_share));
  for (std::size_t i = 0; i < what_ifs.size(); ++i) text += what_if_cell(tensor, what_ifs[i], i);
  return text + "</tr>\n";
}

std::string header_cell(const std::string& key, const std::string& text, const char* kind) {
  return fmt::format("<th scope=\"col\" class=\"{}\" data-key=\"{}\"{}>{}</th>", kind, key,
                     key == "worst" ? " aria-sort=\"descending\"" : "", text);
}

}  // namespace

std::string mark_of(TensorVerdict verdict) {
  return fmt::format("<span class=\"mark {}\" aria-hidden=\"true\"></span>", to_string(verdict));
}

std::string times_of(const TensorComparison& tensor) {
  std::string text = shown_ratio(tensor);
  if (text.ends_with('x')) text.replace(text.size() - 1, 1, "×");
  return text;
}

std::string kind_words(ComparedKind kind) {
  std::string words = to_string(kind);
  std::replace(words.begin(), words.end(), '_', ' ');
  return words;
}

std::string table_of(const std::vector<const TensorComparison*>& tensors,
                     const std::vector<std::string>& what_ifs) {
  std::string text =
      "<div class=\"scroll\"><table>\n<thead><tr>" + header_cell("worst", "verdict", "what") +
      header_cell("name", "tensor", "name") + header_cell("relative_error", "error", "number") +
      header_cell("tolerance", "tolerance", "number") +
      header_cell("ratio", "error / tolerance", "ratio") +
      header_cell("cosine", "cosine", "number") + header_cell("largest_ulp", "ulp", "number") +
      header_cell("flushed_share", "flushed", "number") +
      header_cell("overflowed_share", "overflow", "number");
  for (std::size_t i = 0; i < what_ifs.size(); ++i)
    text += fmt::format("<th scope=\"col\" class=\"w w{}\">{}</th>", i, html_escaped(what_ifs[i]));
  text += "</tr></thead>\n<tbody>\n";
  for (std::size_t i = 0; i < tensors.size(); ++i) text += row_of(*tensors[i], i, what_ifs);
  return text + "</tbody></table></div>\n";
}

}  // namespace halftone
