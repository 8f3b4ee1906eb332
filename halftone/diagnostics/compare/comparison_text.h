// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

#include "halftone/diagnostics/compare/compare.h"

namespace halftone {

struct ComparisonTextOptions {
  std::size_t rows = 12;  // tensors in the table, the worst first
  std::string step;       // which one it is: "runs/poems, step 400"; empty: not said
  std::string all_flag;   // of the program, that lists all tensors: "--all"; empty: not said
};

/// A comparison for a terminal: the verdict, the losses, the worst tensors, what other formats
/// would store, and the lines of a configuration that mend it.
std::string comparison_text(const Comparison& comparison,
                            const ComparisonTextOptions& options = {});

}  // namespace halftone
