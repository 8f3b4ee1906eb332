// SPDX-License-Identifier: Apache-2.0
#include "cli/arguments.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "halftone/core/error.h"
#include "halftone/train/config_file.h"

namespace halftone::cli {
namespace {

std::string type_name(const ConfigField& field) {
  if (!field.choices.empty()) return fmt::format("{}", fmt::join(field.choices, "|"));
  switch (field.kind) {
    case ConfigKind::kSwitch:
      return "true|false";
    case ConfigKind::kInteger:
      return "N";
    case ConfigKind::kNumber:
      return "X";
    case ConfigKind::kDuration:
      return "TIME";
    case ConfigKind::kLossScale:
      return "dynamic|X";
    case ConfigKind::kText:
    case ConfigKind::kTexts:
      return field.expected.ends_with("path") || field.expected.ends_with("paths") ? "PATH"
                                                                                   : "NAME";
  }
  return "";
}

std::string description(const ConfigField& field) {
  const TrainConfig defaults = resolve_config({});
  const std::string value = to_text(field, field.get(defaults));
  if (value.empty() || value == "[]" || value == "\"\"" || field.key == "out") return field.help;
  return fmt::format("{} [{}]", field.help, value);
}

}  // namespace

ConfigArguments::ConfigArguments(CLI::App& command, const std::vector<std::string>& without) {
  const auto left_out = [&](std::string_view name) {
    return std::find(without.begin(), without.end(), name) != without.end();
  };
  if (!left_out("CONFIG.toml"))
    command.add_option("CONFIG.toml", file_, "configuration file; flags win over it")
        ->type_name("");
  for (const ConfigField& field : config_fields()) {
    if (left_out(field.key)) continue;
    keys_.push_back(field.key);
    std::vector<std::string>& texts = texts_[field.key];
    CLI::Option* option = command.add_option(flag_of(field.key), texts)->allow_extra_args(false);
    option->description(description(field))->type_name(type_name(field))->group(field.group);
  }
}

std::vector<ConfigAssignment> ConfigArguments::assignments() const {
  std::vector<ConfigAssignment> result;
  if (!file_.empty()) result = read_config_file(file_);
  for (const std::string& key : keys_) {
    const std::vector<std::string>& texts = texts_.at(key);
    if (!texts.empty()) result.push_back(assignment_from_flag(key, texts));
  }
  return result;
}

void require_data(const TrainConfig& config) {
  if (config.data.empty())
    throw UserError("nothing to train on: name a text file, a .jsonl file or a folder with --data");
}

}  // namespace halftone::cli
