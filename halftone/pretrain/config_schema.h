// SPDX-License-Identifier: Apache-2.0
// One table of the fields of TrainConfig. Configuration files, command-line flags, --help,
// docs/config.md and the comparison on resume all read it, so that they can't disagree.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "halftone/pretrain/train_config.h"

namespace halftone {

/// The value of a key: seconds for a duration, text for a word or number, nothing if it is unset.
using ConfigValue =
    std::variant<std::monostate, bool, std::int64_t, double, std::string, std::vector<std::string>>;

enum class ConfigKind { kSwitch, kInteger, kNumber, kText, kTexts, kDuration, kWordOrNumber };

struct ConfigField {
  std::string key;         // "batch_size", "model.n_layers"
  std::string former_key;  // that run directories may hold; read, never written
  std::string group;       // heading in --help and in docs/config.md
  ConfigKind kind = ConfigKind::kText;
  std::string help;                                   // one line
  std::string expected;                               // "a positive integer"
  std::vector<std::string> choices;                   // of a text that is one of a few
  std::map<std::string, std::string> former_choices;  // word that run directories may hold: today's
  std::function<bool(const ConfigValue&)> accepts;
  bool is_path = false;               // an input; kept absolute, so that a run can move
  bool may_change_on_resume = false;  // limits, logging and saving
  bool is_saved = true;               // stands in a run's config.toml
  std::function<ConfigValue(const TrainConfig&)> get;
  std::function<void(TrainConfig&, const ConfigValue&)> set;
};

/// All fields, in the order of the documentation.
const std::vector<ConfigField>& config_fields();

/// The field called `key`, or formerly, in either spelling (batch_size, batch-size). Throws
/// UserError, which starts with `place` and names the nearest key, when there is none.
const ConfigField& config_field(std::string_view key, const std::string& place);

/// "model.n_layers" -> "--model.n-layers".
std::string flag_of(std::string_view key);

/// `value` as TOML has it; durations as "90s", an unset one as "".
std::string to_text(const ConfigField& field, const ConfigValue& value);

/// One "key = value" that a person wrote, checked, and where: "small.toml:12" or "--batch-size".
struct ConfigAssignment {
  std::string key;
  ConfigValue value;
  std::string place;
};

/// Checks `value` against the field; throws UserError that starts with `place`.
ConfigAssignment checked_assignment(const ConfigField& field, const ConfigValue& value,
                                    const std::string& place);

/// The assignment that `texts`, the values of the flag of `key`, stand for; throws UserError.
ConfigAssignment assignment_from_flag(const std::string& key,
                                      const std::vector<std::string>& texts);

/// Defaults, then the preset, then `assignments` in their order (later ones win). Fills in `out`,
/// makes the paths of inputs absolute and has defaults follow what was given beside them: seq_len
/// is no longer than a given model.max_seq_len. Where init_from is a folder, the tokenizer is the
/// folder's, and so is the model unless a preset is given. Throws UserError.
TrainConfig merge_config(const std::vector<ConfigAssignment>& assignments);

/// merge_config(), with what concerns several keys checked. Throws UserError.
TrainConfig resolve_config(const std::vector<ConfigAssignment>& assignments);

/// Throws UserError, which starts with `place`, unless `model` takes rows of `seq_len` tokens.
void check_seq_len(std::int64_t seq_len, const ModelConfig& model, const std::string& place);

/// The model that the weights in a folder were made for, if it says so: of a run, of one of its
/// checkpoints, or a Hugging Face folder's. Throws UserError.
std::optional<ModelConfig> model_of_folder(const std::filesystem::path& folder);

/// What the config.toml of an existing run says, with today's words for what a run of an older
/// version did. Throws UserError.
std::vector<ConfigAssignment> saved_assignments(const std::filesystem::path& run_dir);

/// The configuration of an existing run, changed by `assignments`. Throws UserError that names the
/// first key that differs and may not.
TrainConfig resume_config(const std::filesystem::path& run_dir,
                          const std::vector<ConfigAssignment>& assignments);

}  // namespace halftone
