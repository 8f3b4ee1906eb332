// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>

#include "halftone/core/error.h"
#include "halftone/system/json_reader_impl.h"
#include "halftone/tokenizer/python_json_impl.h"

namespace halftone {
namespace {

using nlohmann::ordered_json;

std::string python_number(double value) {
  std::string text = fmt::format("{}", value);
  const bool looks_whole = text.find_first_of(".e") == std::string::npos;
  return looks_whole ? text + ".0" : text;
}

// Members that keep their order are looked up one by one: many of them would take for ever.
constexpr std::size_t kMostMembers = 1000;

bool has_large_object(const nlohmann::json& value) {
  if (!value.is_structured()) return false;
  return (value.is_object() && value.size() > kMostMembers) ||
         std::any_of(value.begin(), value.end(), has_large_object);
}

}  // namespace

std::string python_json(const ordered_json& value) {
  const auto joined = [&](char begin, char end, const auto& write_one) {
    std::string text(1, begin);
    for (auto it = value.begin(); it != value.end(); ++it) {
      if (it != value.begin()) text += ", ";
      text += write_one(it);
    }
    return text + end;
  };
  if (value.is_array()) return joined('[', ']', [](const auto& it) { return python_json(*it); });
  if (value.is_object())
    return joined('{', '}', [](const auto& it) {
      return ordered_json(it.key()).dump() + ": " + python_json(it.value());
    });
  return value.is_number_float() ? python_number(value.get<double>()) : value.dump();
}

ordered_json parse_ordered_json(const std::string& text, const std::string& origin) {
  const JsonDocument checked = parse_json(text, origin, {.remedy = "expected a JSON array"});
  if (has_large_object(checked.value))
    throw UserError(fmt::format("{}: expected objects of at most {} members, found more", origin,
                                kMostMembers));
  return ordered_json::parse(text);
}

}  // namespace halftone
