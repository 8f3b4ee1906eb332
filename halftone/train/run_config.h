// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "halftone/train/trainer.h"

namespace halftone {

/// The options as a config.toml with the keys of docs/config.md, which `halftone train` reads, too.
/// Options that are no key stand in it as comments.
std::string run_config(const TrainerOptions& options);

}  // namespace halftone
