// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "halftone/precision/policy.h"
#include "halftone/train/anomaly.h"

namespace halftone {

/// What to do about it, in words; empty where nothing can be said. Flags are the program's.
std::string remedy_of(const Anomaly& anomaly, const PrecisionPolicy& policy);

}  // namespace halftone
