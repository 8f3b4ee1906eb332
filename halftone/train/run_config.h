// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>

#include "halftone/train/trainer.h"

namespace halftone {

/// The options as a config.toml with the keys of docs/config.md, which `halftone train` reads, too.
/// Options that are no key stand in it as comments.
std::string run_config(const TrainerOptions& options);

/// The keys of such a text and their values as they stand there, "scaler.init_scale": "65536", but
/// for those in which processes that train together may differ.
std::map<std::string, std::string> config_values(const std::string& toml);

}  // namespace halftone
