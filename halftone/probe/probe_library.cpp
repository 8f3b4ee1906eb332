// SPDX-License-Identifier: Apache-2.0
// What libhalftone_probe_torch.so does when libhalftone_probe.so loads it into a program.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "halftone/core/message.h"
#include "halftone/probe/probe.h"

namespace halftone {
namespace {

constexpr const char* kFirst = "HALFTONE_PROBE_PROCESS";  // the process that was started first

/// A process that the program starts in its turn must not write over its report.
void give_descendants_their_own_folder(ProbeOptions& options) {
  const std::string own = std::to_string(::getpid());
  const char* const first = std::getenv(kFirst);
  if (first == nullptr)
    ::setenv(kFirst, own.c_str(), 0);
  else if (own != first && std::getenv("RANK") == nullptr)
    options.folder /= "process-" + own;
}

// An exception can't leave the initialisation of a library: the program would end.
[[maybe_unused]] const bool started = [] {
  try {
    auto options = probe_options_from_environment();
    if (!options) return false;
    give_descendants_their_own_folder(*options);
    start_probe(*options);
    return true;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "halftone probe: %s; the program goes on without it\n",
                 error_text(error).c_str());
    return false;
  }
}();

}  // namespace
}  // namespace halftone
