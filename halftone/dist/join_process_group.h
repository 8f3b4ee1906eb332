// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>

#include "halftone/core/process_group.h"
#include "halftone/dist/process_place.h"

namespace halftone {

struct ProcessGroupOptions {
  std::chrono::milliseconds join_timeout =
      std::chrono::minutes(5);  ///< for all to come at the start
  /// A process that gives no sign of life for so long counts as gone.
  std::chrono::milliseconds silence_timeout = std::chrono::seconds(30);
  /// A process that lives, but does not come to an operation for which another waits.
  std::chrono::milliseconds operation_timeout = std::chrono::minutes(10);
  std::chrono::milliseconds heartbeat = std::chrono::seconds(1);  ///< between two signs of life
};

/// The group of all processes that were started together; returns when all have come. One process
/// alone needs nothing of its surroundings. Several exchange bytes over TCP with Gloo, on the CPU;
/// the network's interface is GLOO_SOCKET_IFNAME where that is set. A program joins once. Throws
/// ProcessGroupError, which names who has not come, and UserError where the store can't be served
/// at the place's port, or halftone was built without Gloo.
std::shared_ptr<ProcessGroup> join_process_group(const ProcessPlace& place,
                                                 const ProcessGroupOptions& options = {});

}  // namespace halftone
