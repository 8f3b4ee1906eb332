// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

#include "halftone/diagnostics/compare/compare.h"

namespace halftone::cli {

/// What `halftone compare` prints: the verdict, the losses, the `rows` worst tensors, what other
/// formats would store, and the lines of a configuration that mend it. `title` stands above:
/// "runs/poems, step 400".
std::string comparison_text(const Comparison& comparison, const std::string& title,
                            std::size_t rows);

}  // namespace halftone::cli
