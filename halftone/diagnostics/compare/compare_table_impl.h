// SPDX-License-Identifier: Apache-2.0
// The table of a comparison's page: HTML that needs no script.
#pragma once

#include <string>
#include <vector>

#include "halftone/diagnostics/compare/compare.h"

namespace halftone {

/// A shape in the verdict's colour.
std::string mark_of(TensorVerdict verdict);

/// shown_ratio() with the sign of multiplication.
std::string times_of(const TensorComparison& tensor);

/// "activation gradient".
std::string kind_words(ComparedKind kind);

/// One row for each of `tensors`, with a column for each format of `what_ifs`.
std::string table_of(const std::vector<const TensorComparison*>& tensors,
                     const std::vector<std::string>& what_ifs);

}  // namespace halftone
