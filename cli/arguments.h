// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "halftone/train/config_schema.h"

namespace CLI {
class App;
}

namespace halftone::cli {

/// [CONFIG.toml] and a flag for every key of the configuration, on one command. Must live until the
/// command has run (commands keep it in a shared_ptr that their callback holds).
class ConfigArguments {
 public:
  /// Adds the options to `command`; keys in `without` are left out, and with "CONFIG.toml" the
  /// file.
  explicit ConfigArguments(CLI::App& command, const std::vector<std::string>& without = {});
  ConfigArguments(const ConfigArguments&) = delete;
  ConfigArguments& operator=(const ConfigArguments&) = delete;

  /// What was given: the file's assignments, then the flags'. Throws UserError.
  std::vector<ConfigAssignment> assignments() const;
  /// Defaults, preset, file, flags.
  TrainConfig resolve() const { return resolve_config(assignments()); }

 private:
  std::string file_;
  std::vector<std::string> keys_;
  std::map<std::string, std::vector<std::string>> texts_;  // of the flags, by key
};

/// Throws UserError unless there is something to train on.
void require_data(const TrainConfig& config);

}  // namespace halftone::cli
