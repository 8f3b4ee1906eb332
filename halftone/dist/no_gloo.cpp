// SPDX-License-Identifier: Apache-2.0
// What gloo_group.cpp and gloo_loopback.cpp do, for a build that did not find Gloo's headers.
#include <fmt/format.h>

#include "halftone/core/error.h"
#include "halftone/dist/gloo_group_impl.h"
#include "halftone/dist/network_speed.h"

namespace halftone {

std::shared_ptr<ProcessGroup> join_gloo_group(const ProcessPlace& place,
                                              const ProcessGroupOptions& /*options*/) {
  throw UserError(
      fmt::format("this is process {} of {}, but halftone was built without Gloo: install "
                  "libgloo-dev (scripts/setup.sh "
                  "does) and build it again, or start one process",
                  place.rank, place.size));
}

NetworkSpeed loopback_speed() {
  throw UserError(
      "the loopback can't be measured, since halftone was built without Gloo: install libgloo-dev "
      "(scripts/setup.sh does) and build it again");
}

}  // namespace halftone
