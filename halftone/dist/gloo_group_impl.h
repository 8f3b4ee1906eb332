// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "halftone/dist/join_process_group.h"

namespace halftone {

/// join_process_group() for several processes: c10d's Gloo.
std::shared_ptr<ProcessGroup> join_gloo_group(const ProcessPlace& place,
                                              const ProcessGroupOptions& options);

}  // namespace halftone
