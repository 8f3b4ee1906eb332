// SPDX-License-Identifier: Apache-2.0
// Reading JSON that a stranger wrote: every access checks, every error names the file and field.
// Private to the .cpp files of this folder.
#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "halftone/core/error.h"

namespace halftone {

/// A value in a JSON document together with its name, such as "model.vocab".
class JsonField {
 public:
  JsonField(const nlohmann::json& value, const std::string& origin, std::string name)
      : value_(&value), origin_(&origin), name_(std::move(name)) {}

  const nlohmann::json& value() const { return *value_; }
  bool is_null() const { return value_->is_null(); }

  /// A member of this object; the null value when it is missing.
  JsonField operator[](const std::string& key) const {
    static const nlohmann::json missing;
    if (!value_->is_object()) fail("must be an object");
    const auto found = value_->find(key);
    return {found == value_->end() ? missing : *found, *origin_,
            name_.empty() ? key : name_ + "." + key};
  }

  /// An element of this array; `index` must be less than its size.
  JsonField operator[](std::size_t index) const {
    return {(*value_)[index], *origin_, fmt::format("{}[{}]", name_, index)};
  }

  std::size_t array_size() const {
    if (!value_->is_array()) fail("must be an array");
    return value_->size();
  }

  std::string as_string() const {
    if (!value_->is_string()) fail("must be a string");
    return value_->get<std::string>();
  }

  std::optional<std::string> as_optional_string() const {
    return is_null() ? std::nullopt : std::optional(as_string());
  }

  bool as_bool(bool otherwise) const {
    if (is_null()) return otherwise;
    if (!value_->is_boolean()) fail("must be true or false");
    return value_->get<bool>();
  }

  /// Throws UserError: "FILE: FIELD must be a string, but it is 7".
  [[noreturn]] void fail(std::string_view rule) const {
    constexpr std::size_t kShown = 60;
    std::string found = is_null()
                            ? "missing or null"
                            : value_->dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
    if (found.size() > kShown) found = found.substr(0, kShown) + "...";
    throw UserError(fmt::format("{}: {} {}, but it is {}", *origin_,
                                name_.empty() ? "the whole document" : name_, rule, found));
  }

 private:
  const nlohmann::json* value_;
  const std::string* origin_;
  std::string name_;
};

inline nlohmann::json parse_json(std::string_view text, const std::string& origin) {
  constexpr int kMaxDepth = 64;  // printing and copying a document recurse
  const auto check_depth = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > kMaxDepth)
      throw UserError(
          fmt::format("{}: expected JSON nested at most {} deep, found more; the file "
                      "may be damaged",
                      origin, kMaxDepth));
    return true;
  };
  try {
    return nlohmann::json::parse(text, check_depth);
  } catch (const nlohmann::json::parse_error& error) {
    throw UserError(fmt::format(
        "{}: expected JSON, found a syntax error at byte {}; the file may be damaged or cut off",
        origin, error.byte));
  }
}

}  // namespace halftone
