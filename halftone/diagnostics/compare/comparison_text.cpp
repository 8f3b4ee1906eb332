// SPDX-License-Identifier: Apache-2.0
#include "halftone/diagnostics/compare/comparison_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <vector>

#include "halftone/diagnostics/compare/compare_summary.h"

namespace halftone {
namespace {

constexpr std::size_t kTextWidth = 100;
constexpr const char* kRow = "{:<12} {:>8} {:>7} {:>8} {:>8} {:>9}  {}\n";

std::string wrapped(const std::string& text) {
  std::istringstream words(text);
  std::string result, line;
  for (std::string word; words >> word;) {
    if (!line.empty() && line.size() + 1 + word.size() > kTextWidth) {
      result += line + "\n";
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
  }
  return result + line + "\n";
}

/// "layers.0.feed_forward swiglu", "gradient of layers.0.feed_forward swiglu #1.0": without the
/// namespace of the operation, and without the number of the first one.
std::string short_name(const TensorComparison& tensor) {
  auto [where, what] = words_of(tensor);
  if (const std::size_t colons = what.find("::"); colons != std::string::npos)
    what.erase(0, colons + 2);
  if (what.ends_with(" #0.0")) what.resize(what.size() - 5);
  const std::string name = what.empty() ? where : where + " " + what;
  return tensor.kind == ComparedKind::kActivation ? name : "gradient of " + name;
}

/// "85 of 266 tensors are not fine, 3 incomparable"
std::string counts_of(const VerdictCounts& counts) {
  const std::int64_t all = counts.fine + counts.incomparable + counts.wrong;
  const std::string wrong =
      counts.wrong > 0    ? fmt::format("{} of {} tensors are not fine", counts.wrong, all)
      : counts.fine < all ? fmt::format("{} of {} tensors are fine", counts.fine, all)
                          : fmt::format("all {} tensors are fine", all);
  if (counts.incomparable == 0) return wrong;
  return wrong + fmt::format(", {} incomparable", counts.incomparable);
}

std::string tensor_table(const Comparison& comparison, const ComparisonTextOptions& options) {
  const std::vector<const TensorComparison*> tensors = worst_first(comparison);
  const std::size_t shown = std::min(options.rows, tensors.size());
  const std::string more =
      options.all_flag.empty() ? "" : fmt::format(" ({} for all of them)", options.all_flag);
  std::string text =
      fmt::format("{}{}\n\n", counts_of(count_verdicts(comparison)),
                  shown < tensors.size() ? fmt::format("; the {} worst{}:", shown, more) : ":");
  text += fmt::format(kRow, "verdict", "error", "ratio", "cosine", "flushed", "overflow", "tensor");
  for (std::size_t i = 0; i < shown; ++i) {
    const TensorComparison& tensor = *tensors[i];
    text += fmt::format(kRow, to_string(tensor.verdict), shown_error(tensor), shown_ratio(tensor),
                        shown_cosine(tensor), shown_share(tensor.flushed_share),
                        shown_share(tensor.overflowed_share), short_name(tensor));
  }
  return text +
         "\nratio: the error over that which rounding alone makes; above 3x it has another "
         "cause\n";
}

std::string worst_of(const WhatIfSummary& summary) {
  const StorageLoss& loss = summary.worst_loss;
  const std::string what =
      loss.overflowed_share > 0
          ? shown_share(loss.overflowed_share) + " overflow"
          : fmt::format("error {}, {} flushed", shown_error(loss.relative_error),
                        shown_share(loss.flushed_share));
  return fmt::format("{}: {}", short_name(*summary.worst), what);
}

std::string what_if_table(const Comparison& comparison) {
  const std::vector<WhatIfSummary> summaries = what_if_summaries(comparison);
  if (summaries.empty()) return "";
  std::string text = fmt::format("\n{:<12} {:>14}  {}\n", "stored in", "tensors fit", "worst");
  for (const WhatIfSummary& summary : summaries)
    text +=
        fmt::format("{:<12} {:>14}  {}\n", summary.format,
                    fmt::format("{} of {}", summary.fitting, summary.tensors), worst_of(summary));
  return text;
}

std::string loss_line(const Comparison& comparison) {
  const double difference = std::abs(comparison.loss - comparison.reference_loss);
  return fmt::format(
      "loss         {:.5f} in {}, {:.5f} in {}; they differ by {}, rounding alone "
      "makes {}\n",
      comparison.loss, comparison.precision, comparison.reference_loss, comparison.against,
      shown_error(difference), shown_error(comparison.loss_tolerance));
}

std::string config_lines(const Judgement& judgement) {
  if (judgement.config.empty()) return "";
  std::string text = "\nin the configuration:\n\n";
  std::istringstream lines(judgement.config);
  for (std::string line; std::getline(lines, line);) text += "  " + line + "\n";
  return text + "\n" + wrapped(verification_sentence(judgement));
}

}  // namespace

std::string comparison_text(const Comparison& comparison, const ComparisonTextOptions& options) {
  const Judgement& judgement = comparison.judgement;
  const std::string step =
      options.step.empty() ? "" : fmt::format("step         {}\n", options.step);
  return wrapped(verdict_sentence(comparison)) + wrapped("(" + judgement.reason + ")") + "\n" +
         step +
         fmt::format("precision    {} against {}, loss scale {}\n", comparison.precision,
                     comparison.against, shown_scale(comparison.loss_scale)) +
         loss_line(comparison) + "\n" + tensor_table(comparison, options) +
         what_if_table(comparison) + config_lines(judgement);
}

}  // namespace halftone
