// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "halftone/inspect/non_finite_finder.h"

namespace halftone {
namespace {

using Kind = NonFiniteOrigin::Kind;

std::string gradient_note(const NonFiniteOrigin& origin, const char* words) {
  return origin.gradient.empty() ? "" : fmt::format("; it reaches {} '{}'", words, origin.gradient);
}

/// "1 of 64 values, the first at [0, 0]"
std::string bad_values(const TensorFacts& facts) {
  std::int64_t count = 1;
  std::string index;
  for (const std::int64_t size : facts.shape) count *= size;
  for (const std::int64_t i : facts.first_non_finite)
    index += (index.empty() ? "" : ", ") + std::to_string(i);
  return fmt::format("{} of {} values, the first at [{}]", facts.non_finite, count, index);
}

std::string parameter_explanation(const NonFiniteOrigin& origin) {
  const std::vector<TensorFacts>& facts = origin.diagnosis.inputs;
  return facts.empty() ? "" : bad_values(facts.front());
}

/// The inputs that a floating-point result depends on.
std::string listed_inputs(const std::vector<TensorFacts>& inputs, std::size_t most) {
  std::string text;
  std::size_t shown = 0;
  for (const TensorFacts& facts : inputs) {
    const bool is_number = c10::isFloatingType(facts.dtype) || c10::isComplexType(facts.dtype);
    if (!is_number || shown == most) continue;
    text += (shown++ == 0 ? "" : "; ") + to_string(facts);
  }
  return text;
}

/// "bad data: row 1 of the input ([1, 0])"
std::string data_explanation(const NonFiniteDiagnosis& diagnosis) {
  const auto bad = std::find_if(diagnosis.inputs.begin(), diagnosis.inputs.end(),
                                [](const TensorFacts& facts) { return facts.non_finite > 0; });
  if (bad == diagnosis.inputs.end()) return "";
  const std::string whose =
      bad->parameter.empty() ? "it came in with the data" : "the buffer '" + bad->parameter + "'";
  if (bad->first_non_finite.empty()) return whose;
  return fmt::format(
      "{}: {}{}", whose, bad_values(*bad),
      bad->parameter.empty() ? fmt::format(", in row {}", bad->first_non_finite.front()) : "");
}

}  // namespace

std::string to_string(Kind kind) {
  switch (kind) {
    case Kind::kForward:
      return "forward";
    case Kind::kBackward:
      return "backward";
    case Kind::kInput:
      return "input";
    case Kind::kParameter:
      return "parameter";
    case Kind::kUpdate:
      break;
  }
  return "update";
}

std::string place_of(const NonFiniteOrigin& origin) {
  const std::vector<std::string>& names = origin.site.parameters;
  const char* const noun = names.size() == 1 ? "parameter" : "parameters";
  if (origin.kind == Kind::kParameter)
    return fmt::format("the {} {} {}", noun, quoted_list(names),
                       names.size() == 1 ? "is not finite itself" : "are not finite themselves");
  if (origin.kind == Kind::kUpdate)
    return fmt::format("the update makes the {} {} non-finite", noun, quoted_list(names));
  const std::string where = to_string(origin.site);
  if (origin.kind == Kind::kInput)
    return fmt::format("{} reads a value that is not finite and that no operation made", where);
  if (origin.kind == Kind::kForward)
    return fmt::format("{} makes the first non-finite value of the forward pass{}", where,
                       gradient_note(origin, "the gradient of"));
  return fmt::format("{} makes the first non-finite gradient{}", where,
                     gradient_note(origin, "that of"));
}

std::string explanation_of(const NonFiniteOrigin& origin) {
  if (origin.kind == Kind::kParameter) return parameter_explanation(origin);
  if (origin.kind == Kind::kInput) return data_explanation(origin.diagnosis);
  std::string text = reason_of(origin.diagnosis);
  if (origin.kind == Kind::kUpdate && !origin.diagnosis.detail.empty())
    text += (text.empty() ? "" : ", at the ") + origin.diagnosis.detail;
  // Of an update, the first parameter and its gradient.
  const std::size_t most = origin.kind == Kind::kUpdate ? 2 : 4;
  const std::string inputs = listed_inputs(origin.diagnosis.inputs, most);
  if (!inputs.empty()) text += (text.empty() ? "inputs: " : "; inputs: ") + inputs;
  return text;
}

std::string to_string(const NonFiniteOrigin& origin) {
  const std::string why = explanation_of(origin);
  return why.empty() ? place_of(origin) : place_of(origin) + ": " + why;
}

}  // namespace halftone
