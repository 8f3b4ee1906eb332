// SPDX-License-Identifier: Apache-2.0
// Only files that define USE_C10D_GLOO include this.
#pragma once

#include <chrono>
#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "halftone/dist/process_place.h"

namespace halftone {

/// Connects all processes with each other. `own_address` is what this host is reached by.
c10::intrusive_ptr<c10d::ProcessGroupGloo> connect_gloo(
    const ProcessPlace& place, const std::string& own_address,
    const c10::intrusive_ptr<c10d::Store>& store, std::chrono::milliseconds timeout);

}  // namespace halftone
