// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/pretrain/config_schema.h"

namespace CLI {
class App;
}

namespace halftone::cli {

/// [CONFIG.toml] and flags for keys of the configuration, on one command. Must live until the
/// command has run (commands keep it in a shared_ptr that their callback holds).
class ConfigArguments {
 public:
  explicit ConfigArguments(CLI::App& command);
  /// Flags for some of the keys, without a file: `only` holds keys, and "model." for all of those.
  ConfigArguments(CLI::App& command, const std::vector<std::string>& only);
  ConfigArguments(const ConfigArguments&) = delete;
  ConfigArguments& operator=(const ConfigArguments&) = delete;

  /// The given assignments: the file's, then the flags'. Throws UserError.
  std::vector<ConfigAssignment> assignments() const;
  /// Defaults, preset, file, flags.
  TrainConfig resolve() const { return resolve_config(assignments()); }

 private:
  void add_flags(CLI::App& command, const std::vector<std::string>& only);

  std::string file_;
  std::vector<std::string> keys_;
  std::map<std::string, std::vector<std::string>> texts_;  // of the flags, by key
};

bool was_given(const std::vector<ConfigAssignment>& assignments, std::string_view key);

/// Throws UserError unless there is something to `what`, "train on".
void require_data(const TrainConfig& config, const std::string& what);

}  // namespace halftone::cli
