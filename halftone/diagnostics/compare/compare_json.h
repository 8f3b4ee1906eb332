// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "halftone/diagnostics/compare/compare.h"

namespace halftone {

/// The document of `halftone compare --json` (docs/formats.md), in one line.
std::string to_json(const Comparison& comparison);

}  // namespace halftone
