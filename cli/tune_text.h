// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

#include "halftone/pretrain/tuned_run.h"

namespace halftone::cli {

/// What tune has found, for people: `rows` layers at most, the most sensitive first.
std::string tuned_run_text(const TunedRun& tuned, const std::string& title, std::size_t rows);

/// The same as one JSON document (docs/formats.md).
std::string tuned_run_json(const TunedRun& tuned, const std::string& title);

/// The keys of the configuration that hold the choice, as lines of TOML.
std::string precision_lines(const TrainConfig& config);

}  // namespace halftone::cli
