// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/pretrain/foreign_config_impl.h"

namespace halftone {
namespace {

using nlohmann::json;

const ForeignKey* key_called(const std::vector<ForeignKey>& table, const std::string& name) {
  const auto found = std::find_if(table.begin(), table.end(),
                                  [&](const ForeignKey& key) { return key.name == name; });
  return found == table.end() ? nullptr : &*found;
}

std::string shown_member(const std::string& name, const json& value) {
  constexpr std::size_t kShown = 60;
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kShown) text = text.substr(0, kShown) + "...";
  return fmt::format("{} {}", quoted_json(name, kShown), text);
}

std::string first_few(const std::vector<std::string>& members) {
  constexpr std::size_t kShown = 6;
  const auto end = members.begin() + static_cast<std::ptrdiff_t>(std::min(kShown, members.size()));
  const std::string rest =
      members.size() > kShown ? fmt::format(" and {} more", members.size() - kShown) : "";
  return fmt::format("{}{}", fmt::join(members.begin(), end, ", "), rest);
}

}  // namespace

ForeignKey reads(std::string name, std::function<void(const JsonField&)> read) {
  return {.name = std::move(name), .read = std::move(read)};
}

ForeignKey requires_key(std::string name, std::function<void(const JsonField&)> read) {
  return {.name = std::move(name), .read = std::move(read), .is_required = true};
}

ForeignKey only(std::string name, std::vector<json> values) {
  return only_if(std::move(name), [values = std::move(values)](const json& value) {
    return std::find(values.begin(), values.end(), value) != values.end();
  });
}

ForeignKey only_if(std::string name, std::function<bool(const json&)> changes_nothing) {
  return {.name = std::move(name), .changes_nothing = std::move(changes_nothing)};
}

std::vector<ForeignKey> harmless(const std::vector<std::string>& names) {
  std::vector<ForeignKey> keys;
  for (const std::string& name : names) keys.push_back({.name = name});
  return keys;
}

void read_foreign_config(const JsonField& config, const std::vector<ForeignKey>& table,
                         std::string_view model, const std::string& place) {
  std::vector<std::string> other;
  std::vector<std::string> unknown;
  config.for_each_member([&](const std::string& name, const JsonField& field) {
    if (field.is_null()) return;
    const ForeignKey* const key = key_called(table, name);
    if (key == nullptr)
      unknown.push_back(shown_member(name, field.value()));
    else if (key->changes_nothing && !key->changes_nothing(field.value()))
      other.push_back(shown_member(name, field.value()));
  });
  if (!other.empty())
    throw UserError(
        fmt::format("{}: expected {}, found another model by {}", place, model, first_few(other)));
  if (!unknown.empty())
    throw UserError(fmt::format(
        "{}: expected {}, found keys that may make it another model: {}; remove those that do not "
        "change what is computed",
        place, model, first_few(unknown)));
  for (const ForeignKey& key : table)
    if (key.read && (key.is_required || !config[key.name].is_null())) key.read(config[key.name]);
}

}  // namespace halftone
