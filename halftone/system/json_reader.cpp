// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/system/file.h"
#include "halftone/system/json_reader_impl.h"

namespace halftone {
namespace {

using nlohmann::json;

constexpr std::size_t kMostOrderedMembers = 1000;

bool has_large_object(const json& value) {
  if (!value.is_structured()) return false;
  return (value.is_object() && value.size() > kMostOrderedMembers) ||
         std::any_of(value.begin(), value.end(), has_large_object);
}

// "vocab" or "[\"a b\"]" behind the name of its object: a key may hold line breaks.
std::string member_name(const std::string& object, const std::string& key) {
  constexpr std::size_t kLongestPlain = 80;
  const bool is_plain =
      !key.empty() && key.size() <= kLongestPlain &&
      key.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") ==
          std::string::npos;
  if (!is_plain) return fmt::format("{}[{}]", object, quoted_json(key));
  return object.empty() ? key : object + "." + key;
}

std::string element_name(const std::string& array, std::size_t index) {
  return fmt::format("{}[{}]", array, index);
}

/// Follows the parser through a document: it knows the place and refuses what the rules forbid.
class JsonParseWatch {
 public:
  JsonParseWatch(const std::string& origin, const JsonRules& rules)
      : origin_(&origin), rules_(&rules) {}

  bool operator()(int depth, json::parse_event_t event, const json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        check_depth(depth);
        levels_.push_back({.is_array = event == json::parse_event_t::array_start});
        break;
      case json::parse_event_t::key:
        enter_member(parsed.get_ref<const std::string&>());
        break;
      case json::parse_event_t::object_end:
      case json::parse_event_t::array_end:
        levels_.pop_back();
        [[fallthrough]];
      case json::parse_event_t::value:
        if (!levels_.empty()) ++levels_.back().index;
    }
    return true;
  }

  /// The value that is being read, such as "model.vocab[3]".
  std::string place() const {
    constexpr std::size_t kLongest = 160;
    std::string name;
    for (const Level& level : levels_) {
      if (name.size() > kLongest) return name + "...";
      name = level.is_array ? element_name(name, level.index) : member_name(name, level.key);
    }
    return name.empty() ? "the whole document" : name;
  }

 private:
  struct Level {
    bool is_array = false;
    std::size_t index = 0;
    std::string key;
    std::set<std::string> keys;  // so far, where they must differ
  };

  void check_depth(int depth) const {
    if (depth < rules_->max_depth) return;
    throw UserError(fmt::format("{}: expected JSON nested at most {} deep, found more in {}; {}",
                                *origin_, rules_->max_depth, place(), rules_->remedy));
  }

  void enter_member(const std::string& key) {
    Level& level = levels_.back();
    level.key = key;
    if (rules_->unique_keys && !level.keys.insert(key).second)
      throw UserError(fmt::format("{}: expected different keys in an object, found {} twice; {}",
                                  *origin_, place(), rules_->remedy));
  }

  const std::string* origin_;
  const JsonRules* rules_;
  std::vector<Level> levels_;
};

}  // namespace

std::string quoted_json(std::string_view text, std::size_t longest) {
  const bool is_cut = text.size() > longest;
  const std::string shown = json(std::string(text.substr(0, longest)))
                                .dump(-1, ' ', true, json::error_handler_t::replace);
  return is_cut ? shown + "..." : shown;
}

JsonField JsonField::operator[](const std::string& key) const {
  static const json missing;
  if (!value_->is_object()) fail("must be an object");
  const auto found = value_->find(key);
  return {found == value_->end() ? missing : *found, *origin_, member_name(name_, key)};
}

JsonField JsonField::operator[](std::size_t index) const {
  return {(*value_)[index], *origin_, element_name(name_, index)};
}

std::size_t JsonField::array_size() const {
  if (!value_->is_array()) fail("must be an array");
  return value_->size();
}

std::string JsonField::as_string() const {
  if (!value_->is_string()) fail("must be a string");
  return value_->get<std::string>();
}

std::optional<std::string> JsonField::as_optional_string() const {
  return is_null() ? std::nullopt : std::optional(as_string());
}

bool JsonField::as_bool() const {
  if (!value_->is_boolean()) fail("must be true or false");
  return value_->get<bool>();
}

std::int64_t JsonField::as_integer(std::int64_t least, std::int64_t most) const {
  // What does not fit in int64 is kept as unsigned, what does not fit there as a double.
  const bool fits = value_->is_number_integer() &&
                    (!value_->is_number_unsigned() ||
                     value_->get<std::uint64_t>() <=
                         static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()));
  if (!fits || value_->get<std::int64_t>() < least || value_->get<std::int64_t>() > most)
    fail(fmt::format("must be an integer from {} to {}", least, most));
  return value_->get<std::int64_t>();
}

double JsonField::as_number() const {
  if (!value_->is_number()) fail("must be a number");
  return value_->get<double>();
}

void JsonField::fail(std::string_view rule) const {
  constexpr std::size_t kShown = 60;
  std::string found =
      is_null() ? "missing or null" : value_->dump(-1, ' ', true, json::error_handler_t::replace);
  if (found.size() > kShown) found = found.substr(0, kShown) + "...";
  throw UserError(fmt::format("{}: {} {}, but it is {}", *origin_,
                              name_.empty() ? "the whole document" : name_, rule, found));
}

JsonDocument parse_json(std::string_view text, std::string origin, const JsonRules& rules) {
  if (text.size() > rules.max_bytes)
    throw UserError(fmt::format("{}: expected JSON of at most {}, found {}; is it the right file?",
                                origin, format_bytes(rules.max_bytes), format_bytes(text.size())));
  JsonParseWatch watch(origin, rules);
  try {
    json value =
        json::parse(text, [&watch](int depth, json::parse_event_t event, const json& parsed) {
          return watch(depth, event, parsed);
        });
    return {std::move(value), std::move(origin)};
  } catch (const json::parse_error& error) {
    throw UserError(fmt::format("{}: expected JSON, found a syntax error at byte {}; {}", origin,
                                error.byte, rules.remedy));
  } catch (const json::out_of_range&) {
    throw UserError(fmt::format("{}: {} must be a number below 1.8e308, but it is larger; {}",
                                origin, watch.place(), rules.remedy));
  }
}

nlohmann::ordered_json parse_ordered_json(std::string_view text, const std::string& origin,
                                          const JsonRules& rules) {
  const JsonDocument checked = parse_json(text, origin, rules);
  if (has_large_object(checked.value))
    throw UserError(fmt::format("{}: expected objects of at most {} members, found more; {}",
                                origin, kMostOrderedMembers, rules.remedy));
  return nlohmann::ordered_json::parse(text);
}

JsonDocument read_json_file(const std::filesystem::path& path, const JsonRules& rules) {
  return parse_json(read_file(path, rules.max_bytes), path.string(), rules);
}

std::optional<nlohmann::json> parse_json_if_valid(std::string_view text, const JsonRules& rules) {
  try {
    return parse_json(text, "", rules).value;
  } catch (const UserError&) {
    return std::nullopt;
  }
}

}  // namespace halftone
