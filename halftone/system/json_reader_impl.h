// SPDX-License-Identifier: Apache-2.0
// The one way to read JSON in this library. The text may be a stranger's: size and depth are
// limited, every access checks, and every error is one line that names the file and the field.
// Private to the .cpp files of the library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace halftone {

struct JsonRules {
  std::uint64_t max_bytes = std::uint64_t{256} << 20U;
  int max_depth = 64;        // printing and copying a document recurse
  bool unique_keys = false;  // otherwise the last of two equal keys counts
  std::string remedy = "the file may be damaged or cut off";
};

/// `text` as a JSON string on one line, shortened to about `longest` bytes: for names in errors.
std::string quoted_json(std::string_view text, std::size_t longest = 80);

/// A value in a JSON document together with its name, such as "model.vocab". Refers to the
/// document, which must outlive it. Every accessor throws UserError when the value is another type.
class JsonField {
 public:
  JsonField(const nlohmann::json& value, const std::string& origin, std::string name)
      : value_(&value), origin_(&origin), name_(std::move(name)) {}

  const nlohmann::json& value() const { return *value_; }
  const std::string& name() const { return name_; }
  /// True for null and for a member that is missing.
  bool is_null() const { return value_->is_null(); }

  /// A member of this object; the null value when it is missing.
  JsonField operator[](const std::string& key) const;
  /// An element of this array; `index` must be less than its size.
  JsonField operator[](std::size_t index) const;
  std::size_t array_size() const;

  std::string as_string() const;
  std::optional<std::string> as_optional_string() const;
  bool as_bool() const;
  bool as_bool(bool otherwise) const { return is_null() ? otherwise : as_bool(); }
  /// An integer from `least` to `most`: neither 3.0 nor a number of more than 64 bits is one.
  std::int64_t as_integer(std::int64_t least = std::numeric_limits<std::int64_t>::min(),
                          std::int64_t most = std::numeric_limits<std::int64_t>::max()) const;
  /// Any number: JSON has no inf and no nan, and the parser refuses what a double cannot hold.
  double as_number() const;

  /// Calls visit(key, field) for each member of this object.
  template <class Visit>
  void for_each_member(Visit visit) const {
    if (!value_->is_object()) fail("must be an object");
    for (const auto& [key, value] : value_->items()) visit(key, (*this)[key]);
  }

  /// Throws UserError: "FILE: FIELD must be a string, but it is 7".
  [[noreturn]] void fail(std::string_view rule) const;

 private:
  const nlohmann::json* value_;
  const std::string* origin_;
  std::string name_;
};

struct JsonDocument {
  nlohmann::json value;
  std::string origin;  // stands for the file's name in errors

  JsonField root() const& { return {value, origin, ""}; }
  JsonField root() const&& = delete;
};

/// Throws UserError that names `origin` and the place: not JSON, nested too deeply, too large, a
/// number that no double holds, or a repeated key where `rules` forbid it.
JsonDocument parse_json(std::string_view text, std::string origin, const JsonRules& rules = {});

/// The same with members in the order of the text, at most 1000 of an object: they are looked up
/// one by one.
nlohmann::ordered_json parse_ordered_json(std::string_view text, const std::string& origin,
                                          const JsonRules& rules = {});

/// The same as parse_json() for a file. Throws UserError when it is missing, unreadable or too
/// large, too.
JsonDocument read_json_file(const std::filesystem::path& path, const JsonRules& rules = {});

/// The document, or nothing where parse_json() would throw: for files that may be damaged.
std::optional<nlohmann::json> parse_json_if_valid(std::string_view text,
                                                  const JsonRules& rules = {});

}  // namespace halftone
