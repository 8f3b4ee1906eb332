// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/compare/compare_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "halftone/core/page_style_impl.h"
#include "halftone/core/text.h"
#include "halftone/diagnostics/compare/compare_json_impl.h"
#include "halftone/diagnostics/compare/compare_script_impl.h"
#include "halftone/diagnostics/compare/compare_style_impl.h"
#include "halftone/diagnostics/compare/compare_summary.h"
#include "halftone/diagnostics/compare/compare_table_impl.h"
#include "halftone/diagnostics/compare/histogram_script_impl.h"
#include "halftone/report/chart.h"
#include "halftone/report/report_style.h"

namespace halftone {
namespace {

using nlohmann::ordered_json;
using Tensors = std::vector<const TensorComparison*>;

constexpr const char* kTitleEnd = " - halftone compare";

// ---- the data of the script

ordered_json json_of(const NumberFormat& format) {
  constexpr std::array kScalings = {"none", "tensor", "row"};
  return {{"scaling", kScalings.at(static_cast<std::size_t>(format.scaling))},
          {"is_integer", format.is_integer()},
          {"min_exponent", format.min_exponent},
          {"flushed_up_to", std::log2(format.flushed_up_to())},
          {"max", std::log2(format.max)},
          {"overflows_from", std::log2(format.overflows_from())}};
}

/// The document of to_json() with the tensors in one list, worst first, and with the formats as
/// powers of two.
ordered_json page_data(const Comparison& comparison, const Tensors& tensors,
                       const std::vector<std::string>& what_ifs) {
  ordered_json data = halftone::json_of(comparison);
  for (const char* kind : {"gradients", "activations", "activation_gradients"}) data.erase(kind);
  data["shown_formats"] = {comparison.format};
  for (const std::string& format : what_ifs)
    if (format != comparison.format) data["shown_formats"].push_back(format);
  for (const NumberFormat& format : number_formats())
    data["formats"][format.name] = json_of(format);
  data["tensors"] = ordered_json::array();
  for (const TensorComparison* tensor : tensors) {
    ordered_json object = halftone::json_of(*tensor);
    object.erase("what_if");  // stands in the table
    object["kind"] = to_string(tensor->kind);
    object["operation"] = tensor->operation;
    object["ratio"] = error_ratio(*tensor);
    object["order"] = tensor - comparison.tensors.data();
    data["tensors"].push_back(std::move(object));
  }
  return data;
}

/// JSON that no HTML parser takes for the end of its script.
std::string embedded(const ordered_json& data) {
  std::string text;
  for (const char c : json_text(data))
    if (c == '<')
      text += "\\u003c";
    else
      text += c;
  return text;
}

// ---- above the table

std::string sentence_of(std::string text) {
  if (text.empty()) return text;
  if (text.front() >= 'a' && text.front() <= 'z') text.front() -= 'a' - 'A';
  if (!text.ends_with('.')) text += '.';
  return text;
}

std::string loss_sentence(const Comparison& comparison) {
  const double difference = std::abs(comparison.loss - comparison.reference_loss);
  if (!std::isfinite(difference))
    return fmt::format("The loss is {} in {}, and {} in {}.", shown_error(comparison.loss),
                       comparison.precision, shown_error(comparison.reference_loss),
                       comparison.against);
  return fmt::format(
      "The loss is {:.5g} in {} and {:.5g} in {}: a difference of {}, where rounding alone makes "
      "about {}.",
      comparison.loss, comparison.precision, comparison.reference_loss, comparison.against,
      shown_error(difference), shown_error(comparison.loss_tolerance));
}

std::string mend_of(const Judgement& judgement) {
  if (judgement.config.empty()) return "";
  return fmt::format(
      "<p>These lines of the configuration mend it:</p>\n"
      "<div class=\"mend\" id=\"mend\"><pre>{}</pre>"
      "<button type=\"button\" class=\"scripted\">copy</button></div>\n<p class=\"quiet\">{}</p>\n",
      html_escaped(judgement.config), html_escaped(verification_sentence(judgement)));
}

std::string verdict_of_page(const Comparison& comparison) {
  const Judgement& judgement = comparison.judgement;
  return fmt::format(
      "<section class=\"verdict {}\" aria-label=\"Verdict\">\n<h2>{}</h2>\n<p>{}</p>\n<p>{}</p>\n"
      "{}</section>\n",
      to_string(judgement.verdict), html_escaped(verdict_sentence(comparison)),
      html_escaped(sentence_of(judgement.reason)), html_escaped(loss_sentence(comparison)),
      mend_of(judgement));
}

std::string tile_of(const std::string& name, const std::string& value, const std::string& more) {
  return fmt::format("<div><dt>{}</dt><dd>{}<small>{}</small></dd></div>\n", name, value,
                     html_escaped(more));
}

std::string scale_tile(const Comparison& comparison) {
  const Judgement& judgement = comparison.judgement;
  const std::string scale = shown_scale(comparison.loss_scale);
  if (!judgement.least_scale) return tile_of("loss scale", scale, "needs none");
  const bool has_most = judgement.most_scale && std::isfinite(*judgement.most_scale);
  const std::string least = shown_scale(*judgement.least_scale);
  if (!has_most) return tile_of("loss scale", scale, fmt::format("at least {} would do", least));
  const bool is_possible = *judgement.least_scale <= *judgement.most_scale;
  return tile_of("loss scale", scale,
                 is_possible
                     ? fmt::format("{} to {} would do", least, shown_scale(*judgement.most_scale))
                     : "none suits all gradients");
}

std::string tiles_of(const Comparison& comparison, const Tensors& tensors) {
  const VerdictCounts counts = count_verdicts(comparison);
  const GradientShares shares = largest_gradient_shares(comparison);
  std::string text = "<dl class=\"tiles\">\n";
  text += tile_of("loss", shown_error(comparison.loss), "in " + comparison.precision);
  text += tile_of("tensors", std::to_string(tensors.size()),
                  counts.wrong > 0          ? fmt::format("{} not fine", counts.wrong)
                  : counts.incomparable > 0 ? fmt::format("{} incomparable", counts.incomparable)
                                            : "all fine");
  if (!tensors.empty())
    text += tile_of("worst error", times_of(*tensors.front()), "of what rounding alone makes");
  text += tile_of("flushed", shown_share(shares.flushed), "of a gradient's values, at most");
  text += tile_of("overflowed", shown_share(shares.overflowed), "of a gradient's values, at most");
  return text + scale_tile(comparison) + "</dl>\n";
}

// ---- controls

std::string pressed(const std::string& value, const std::string& text, bool is_pressed) {
  return fmt::format("<button type=\"button\" value=\"{}\" aria-pressed=\"{}\">{}</button>", value,
                     is_pressed, text);
}

std::string controls_of(const Tensors& tensors, const std::vector<std::string>& what_ifs) {
  std::vector<std::pair<TensorVerdict, int>> verdicts;  // worst first, as `tensors` are
  std::map<ComparedKind, int> kinds;
  for (const TensorComparison* tensor : tensors) {
    if (verdicts.empty() || verdicts.back().first != tensor->verdict)
      verdicts.emplace_back(tensor->verdict, 0);
    ++verdicts.back().second;
    ++kinds[tensor->kind];
  }
  std::string text =
      "<div class=\"controls scripted\">\n<input type=\"search\" placeholder=\"filter by name\" "
      "aria-label=\"Filter by name, operation or dtype\">\n<fieldset class=\"verdicts\">"
      "<legend>verdict</legend>";
  for (const auto& [verdict, count] : verdicts)
    text += pressed(to_string(verdict),
                    fmt::format("{}{} {}", mark_of(verdict), to_string(verdict), count), true);
  text += "</fieldset>\n<fieldset class=\"kinds\"><legend>kind</legend>";
  for (const auto& [kind, count] : kinds)
    text += pressed(to_string(kind), fmt::format("{}s {}", kind_words(kind), count), true);
  text += "</fieldset>\n";
  if (!what_ifs.empty()) text += "<fieldset class=\"formats\"><legend>what if stored in</legend>";
  for (std::size_t i = 0; i < what_ifs.size(); ++i)
    text += pressed(std::to_string(i), html_escaped(what_ifs[i]), false);
  return text + (what_ifs.empty() ? "</div>\n" : "</fieldset>\n</div>\n");
}

// ---- below it

std::string explanations_of(const Comparison& comparison) {
  const auto word = [](TensorVerdict verdict, const std::string& text) {
    return fmt::format("<dt>{}{}</dt><dd>{}</dd>\n", mark_of(verdict), to_string(verdict), text);
  };
  return "<section class=\"words\"><h2>How to read it</h2>\n<dl>\n" +
         fmt::format(
             "<dt>error</dt><dd>|x - r| / |r| in the 2-norm, with x in {} and r in {}. Gradients "
             "are without the loss scale.</dd>\n"
             "<dt>tolerance</dt><dd>The error that rounding alone makes: the {} step was computed "
             "again with rounding noise as large as that of {}, and no limits of range. An error "
             "of more than three times "
             "that has another cause; the line in each bar stands there.</dd>\n",
             html_escaped(comparison.precision), html_escaped(comparison.against),
             html_escaped(comparison.against), html_escaped(comparison.precision)) +
         word(TensorVerdict::kOverflow, "Values that the reference has are inf or nan.") +
         word(TensorVerdict::kUnderflow,
              "The format flushes values to zero that weigh more than its rounding.") +
         word(TensorVerdict::kImprecise, "There is more error than rounding alone makes.") +
         word(TensorVerdict::kIncomparable,
              "The two precisions made tensors of different shapes, as routers do.") +
         word(TensorVerdict::kFine, "The error is that of rounding.") +
         "<dt>ulp</dt><dd>The largest error, in units of the last place of the format.</dd>\n"
         "<dt>flushed, overflow</dt><dd>Share of the values that are zero, or not finite, in the "
         "judged precision alone.</dd>\n"
         "<dt>what if</dt><dd>The error that storing the reference in a format would make. fp8 and "
         "int8 have a scale for each tensor or row; the others take the loss scale.</dd>\n"
         "</dl></section>\n";
}

std::string head_of(const std::string& title) {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'; script-src 'unsafe-inline'\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n"
      "<title>{}{}</title>\n<style>{}{}{}</style>\n</head>\n<body>\n<main>\n",
      html_escaped(title), kTitleEnd, kPageStyle, kReportStyle, kCompareStyle);
}

std::string header_of(const Comparison& comparison, const std::string& title) {
  return fmt::format(
      "<header><p class=\"kind\">halftone compare</p><h1>{}</h1><p>{} against {}, loss scale {}"
      "</p></header>\n",
      html_escaped(title), html_escaped(comparison.precision), html_escaped(comparison.against),
      shown_scale(comparison.loss_scale));
}

}  // namespace

std::string compare_page(const Comparison& comparison, const std::string& title) {
  const Tensors tensors = worst_first(comparison);
  std::vector<std::string> what_ifs;
  for (const WhatIfSummary& summary : what_if_summaries(comparison))
    what_ifs.push_back(summary.format);
  std::string page = head_of(title) + header_of(comparison, title) + verdict_of_page(comparison) +
                     tiles_of(comparison, tensors);
  page += "<section><h2>Tensors, worst first</h2>\n" + controls_of(tensors, what_ifs) +
          "<div class=\"split\">\n<nav class=\"tree scripted\"></nav>\n<div class=\"tensors\">"
          "<p class=\"shown scripted\" aria-live=\"polite\"></p>\n" +
          table_of(tensors, what_ifs) + "</div>\n</div></section>\n" + explanations_of(comparison);
  page += "<script type=\"application/json\" id=\"data\">" +
          embedded(page_data(comparison, tensors, what_ifs)) +
          "</script>\n<script>'use strict';\n(() => {" + kCompareScript + kHistogramScript +
          kStartScript + "})();\n</script>\n";
  return page + "</main>\n</body>\n</html>\n";
}

}  // namespace halftone
