// SPDX-License-Identifier: Apache-2.0
#include "cli/arguments.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>

#include "halftone/core/error.h"
#include "halftone/pretrain/config_file.h"

namespace halftone::cli {
namespace {

/// The words of a field, if a line of help has room for them.
std::string short_choices(const ConfigField& field) {
  constexpr std::size_t kRoom = 90;
  std::string words = fmt::format("{}", fmt::join(field.choices, "|"));
  return words.size() <= kRoom ? words : "";
}

std::string type_name(const ConfigField& field) {
  if (!field.choices.empty()) {
    const std::string words = short_choices(field);
    return words.empty() ? "NAME" : words;
  }
  switch (field.kind) {
    case ConfigKind::kSwitch:
      return "true|false";
    case ConfigKind::kInteger:
      return "N";
    case ConfigKind::kNumber:
      return "X";
    case ConfigKind::kDuration:
      return "TIME";
    case ConfigKind::kWordOrNumber:
      return field.key == "watch" ? "off|auto|N" : "dynamic|X";
    case ConfigKind::kText:
    case ConfigKind::kTexts:
      return field.expected.ends_with("path") || field.expected.ends_with("paths") ? "PATH"
                                                                                   : "NAME";
  }
  return "";
}

std::string description(const ConfigField& field) {
  static const TrainConfig defaults = resolve_config({});
  const std::string value = to_text(field, field.get(defaults));
  std::string help = field.help;
  if (!field.choices.empty() && short_choices(field).empty())
    help += fmt::format(": {}", fmt::join(field.choices, ", "));
  const bool begins_with_file = help.substr(0, help.find(' ')).find('.') != std::string::npos;
  if (!begins_with_file)
    help.front() = static_cast<char>(std::toupper(static_cast<unsigned char>(help.front())));
  if (value.empty() || value == "[]" || value == "\"\"" || field.key == "out") return help;
  const bool quoted = value.starts_with('"') && value.ends_with('"');
  return fmt::format("{} [{}]", help, quoted ? value.substr(1, value.size() - 2) : value);
}

bool is_one_of(const std::string& key, const std::vector<std::string>& only) {
  return std::any_of(only.begin(), only.end(), [&](const std::string& one) {
    return one.ends_with('.') ? key.starts_with(one) : key == one;
  });
}

UserError not_a_config_file(const std::string& word) {
  const std::vector<std::string> presets = preset_names();
  if (std::find(presets.begin(), presets.end(), word) != presets.end())
    return UserError(fmt::format("'{0}' was not expected: a preset goes with --preset {0}", word));
  return UserError(fmt::format(
      "'{}' was not expected: a configuration file ends in .toml, data goes with --data", word));
}

}  // namespace

ConfigArguments::ConfigArguments(CLI::App& command) {
  command.add_option("CONFIG.toml", file_, "Configuration file; flags win over it")->type_name("");
  add_flags(command, {});
}

ConfigArguments::ConfigArguments(CLI::App& command, const std::vector<std::string>& only) {
  add_flags(command, only);
}

void ConfigArguments::add_flags(CLI::App& command, const std::vector<std::string>& only) {
  for (const ConfigField& field : config_fields()) {
    if (!only.empty() && !is_one_of(field.key, only)) continue;
    keys_.push_back(field.key);
    std::vector<std::string>& texts = texts_[field.key];
    CLI::Option* option = command.add_option(flag_of(field.key), texts)->allow_extra_args(false);
    option->description(description(field))->type_name(type_name(field))->group(field.group);
    if (field.former_key.empty()) continue;
    CLI::Option* former = command.add_option(flag_of(field.former_key), texts);
    former->allow_extra_args(false)->group("");  // read, not shown
  }
}

std::vector<ConfigAssignment> ConfigArguments::assignments() const {
  std::vector<ConfigAssignment> result;
  if (!file_.empty() && !file_.ends_with(".toml")) throw not_a_config_file(file_);
  if (!file_.empty()) result = read_config_file(file_);
  for (const std::string& key : keys_) {
    const std::vector<std::string>& texts = texts_.at(key);
    if (!texts.empty()) result.push_back(assignment_from_flag(key, texts));
  }
  return result;
}

bool was_given(const std::vector<ConfigAssignment>& assignments, std::string_view key) {
  return std::any_of(assignments.begin(), assignments.end(),
                     [&](const ConfigAssignment& assignment) { return assignment.key == key; });
}

void require_data(const TrainConfig& config, const std::string& what) {
  if (config.data.empty())
    throw UserError(fmt::format(
        "nothing to {}: name a text file, a .jsonl file or a folder with --data", what));
}

}  // namespace halftone::cli
