// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "halftone/report/chart.h"
#include "halftone/run/run_history.h"

namespace halftone {

/// The pictures of a run's report, in their order: those that it has numbers for. REQUIRES a step.
std::vector<Chart> report_charts(const RunHistory& history);

}  // namespace halftone
