// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "halftone/core/process_group.h"

namespace halftone {

/// The alpha-beta model of a network: a message between two processes takes latency_s + its bytes /
/// bytes_per_s, while as much comes the other way. Both are of whole messages as a ProcessGroup
/// sends them, with the threads that they wake, in the best of several rounds.
struct NetworkSpeed {
  double latency_s = 0;
  double bytes_per_s = 0;  // each way
};

/// Of the network between the processes of `group`, all of which call it. Takes a second at most
/// where a message of 4 MiB takes 20 ms. REQUIRES two processes or more.
NetworkSpeed network_speed(ProcessGroup& group);

/// Of two processes on this host that do nothing else: two threads of this one, connected as they
/// would be, with Gloo over 127.0.0.1 (GLOO_SOCKET_IFNAME, where that is set). Takes about a
/// quarter of a second. Throws UserError where halftone was built without Gloo, and what Gloo
/// throws where they can't connect.
NetworkSpeed loopback_speed();

}  // namespace halftone
