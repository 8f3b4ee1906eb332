// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>

#include "halftone/dist/process_place.h"

namespace halftone {

/// Waits until somebody listens where the store of all processes is, and returns the address by
/// which this host gets there. Throws ProcessGroupError after `timeout`.
std::string reach_store(const ProcessPlace& place, std::chrono::milliseconds timeout);

}  // namespace halftone
