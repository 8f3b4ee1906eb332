// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "halftone/tokenizer/python_json_impl.h"

namespace halftone {
namespace {

using nlohmann::ordered_json;

std::string python_number(double value) {
  std::string text = fmt::format("{}", value);
  const bool looks_whole = text.find_first_of(".e") == std::string::npos;
  return looks_whole ? text + ".0" : text;
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

}  // namespace halftone
