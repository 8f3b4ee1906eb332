// SPDX-License-Identifier: Apache-2.0
// Configuration files: TOML, keys as in docs/config.md, [model] and [scaler] as tables or dotted.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "halftone/pretrain/config_schema.h"

namespace halftone {

/// The assignments of a TOML file, in the order of its lines. Throws UserError with file and line:
/// syntax, unknown key (names the nearest), wrong type, value out of range.
std::vector<ConfigAssignment> read_config_file(const std::filesystem::path& path);

/// A complete TOML document: read_config_file and resolve_config give the same configuration again.
std::string config_to_toml(const TrainConfig& config);

/// The page docs/config.md.
std::string config_reference();

}  // namespace halftone
