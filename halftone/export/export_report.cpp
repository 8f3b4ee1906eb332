// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "halftone/core/text.h"
#include "halftone/export/export_model.h"

namespace halftone {
namespace {

double perplexity_of(double loss) {
  return std::min(std::exp(loss), std::numeric_limits<double>::max());
}

std::string text_of(const TokenCheck& text) {
  const std::string where =
      text.is_training_text
          ? "the training text"
          : fmt::format("a built-in sample, not the training text: {}", text.why_not);
  return fmt::format("{} lines, {} tokens of {}", text.lines, text.tokens, where);
}

}  // namespace

std::string export_text(const ExportReport& report) {
  const ExportCheck& check = report.check;
  std::uint64_t bytes = 0;
  for (const auto& [name, size] : report.files) bytes += size;
  std::string text = fmt::format("format      {} {}, {} parameters in {}\n", report.format,
                                 report.dtype, report.parameters, format_bytes(bytes));
  text += fmt::format("token ids   {} for {}\n", check.text.difference.empty() ? "equal" : "differ",
                      text_of(check.text));
  if (check.positions > 0)
    text += fmt::format(
        "logits      error {:.3g} (at most {:.3g}), the same choice at {:.2f} % of {} positions, "
        "in {}\nperplexity  {:.4f} before, {:.4f} after\n",
        check.logits_error, check.bounds.logits_error, 100 * check.same_choice, check.positions,
        check.precision, perplexity_of(check.loss_before), perplexity_of(check.loss_after));
  const std::string failure = check.failure();
  text += failure.empty() ? fmt::format("verified    {}\n", report.folder.string())
                          : fmt::format("refused     {}\n", failure);
  return text;
}

std::string export_json(const ExportReport& report) {
  const ExportCheck& check = report.check;
  const bool compared = check.positions > 0;
  const auto if_compared = [&](double value) -> nlohmann::ordered_json {
    return compared ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
  };
  nlohmann::ordered_json files = nlohmann::ordered_json::object();
  for (const auto& [name, bytes] : report.files) files[name] = bytes;
  const nlohmann::ordered_json text{
      {"training_text", check.text.is_training_text},
      {"why_not", check.text.is_training_text ? nlohmann::ordered_json(nullptr)
                                              : nlohmann::ordered_json(check.text.why_not)},
      {"lines", check.text.lines},
      {"tokens", check.text.tokens},
      {"ids_equal", check.text.difference.empty()}};
  const nlohmann::ordered_json document{
      {"format", report.format},
      {"dtype", report.dtype},
      {"folder", report.folder.string()},
      {"parameters", report.parameters},
      {"files_bytes", files},
      {"text", text},
      {"precision", check.precision},
      {"positions", check.positions},
      {"logits_error", if_compared(check.logits_error)},
      {"logits_error_bound", check.bounds.logits_error},
      {"same_choice_share", if_compared(check.same_choice)},
      {"loss_before", if_compared(check.loss_before)},
      {"loss_after", if_compared(check.loss_after)},
      {"loss_change_bound", check.bounds.loss_change},
      {"perplexity_before", if_compared(perplexity_of(check.loss_before))},
      {"perplexity_after", if_compared(perplexity_of(check.loss_after))},
      {"verified", check.failure().empty()}};
  return document.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace halftone
