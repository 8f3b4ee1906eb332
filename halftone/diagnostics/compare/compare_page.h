// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "halftone/diagnostics/compare/compare.h"

namespace halftone {

/// One HTML document without references to anything outside it: the module tree, errors and
/// histograms, the worst tensors first, and the configuration that mends them. `title` stands
/// above: "runs/poems, step 400".
std::string compare_page(const Comparison& comparison, const std::string& title);

}  // namespace halftone
