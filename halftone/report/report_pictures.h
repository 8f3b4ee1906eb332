// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "halftone/report/report.h"

namespace halftone {

/// The section of the page with what a run has drawn, each picture inside it; nothing where there
/// is none.
std::string picture_section(const std::vector<RunDescription::Picture>& pictures);

}  // namespace halftone
