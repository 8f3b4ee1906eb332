// SPDX-License-Identifier: Apache-2.0
// One table of the fields of TrainConfig. Configuration files, command-line flags, --help,
// docs/config.md and the comparison on resume all read it, so that they can't disagree.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "halftone/train/train_config.h"

namespace halftone {

/// What a key can hold. Nothing: the key is unset.
using ConfigValue =
    std::variant<std::monostate, bool, std::int64_t, double, std::string, std::vector<std::string>>;

struct ConfigField {
  std::string key;         // "batch_size", "model.n_layers"
  std::string group;       // heading in --help and in docs/config.md
  std::string help;        // one line
  std::string expected;    // "a positive integer"
  bool is_switch = false;  // true or false: the flag alone means true
  bool is_list = false;    // the flag may be repeated
  bool may_change_on_resume = false;
  ConfigValue (*get)(const TrainConfig&) = nullptr;
};

/// All fields, in the order of the documentation.
const std::vector<ConfigField>& config_fields();

/// "batch_size" -> "--batch-size".
std::string flag_of(std::string_view key);

/// One "key = value" that a person wrote, checked, and where: "small.toml:12" or "--batch-size".
struct ConfigAssignment {
  std::string key;
  ConfigValue value;
  std::string place;
};

/// The assignments of a TOML file, in its order. Throws UserError with file and line: syntax,
/// unknown key (names the nearest), wrong type, value out of range.
std::vector<ConfigAssignment> read_config_file(const std::filesystem::path& path);

/// The assignment that `texts`, the values of flag --`key`, stand for; throws UserError.
ConfigAssignment assignment_from_flag(const std::string& key,
                                      const std::vector<std::string>& texts);

/// Defaults, then the preset, then `assignments` in their order (later ones win). Fills in `out`,
/// makes the paths of inputs absolute and checks what concerns several keys. Throws UserError.
TrainConfig resolve_config(const std::vector<ConfigAssignment>& assignments);

/// The configuration of an existing run, changed by `assignments`. Throws UserError that names the
/// first key that differs and may not.
TrainConfig resume_config(const std::filesystem::path& run_dir,
                          const std::vector<ConfigAssignment>& assignments);

/// A complete TOML document; read_config_file + resolve_config give the same configuration again.
std::string config_to_toml(const TrainConfig& config);

/// The page docs/config.md.
std::string config_reference();

}  // namespace halftone
