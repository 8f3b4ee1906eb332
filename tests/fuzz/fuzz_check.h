// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <cstdlib>

#include "halftone/core/error.h"
#include "halftone/core/log.h"

namespace halftone::test {

/// Ends the fuzzer, which keeps the input, unless `holds`.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "expected that %s\n", what);
  std::abort();
}

/// Calls `read`, whose UserError is what a file that is wrong deserves. Returns whether it came to
/// its end.
template <class Read>
bool succeeds(Read read) {
  static const bool is_quiet = (set_log_sink([](LogLevel, const std::string&) {}), true);
  require(is_quiet, "the log is silent");
  try {
    read();
    return true;
  } catch (const UserError&) {
    return false;
  }
}

/// What `read` gives of a file that was just written: a UserError would be our own fault.
template <class Read>
auto must_succeed(Read read) {
  try {
    return read();
  } catch (const UserError& error) {
    require(false, error.what());
    throw;
  }
}

}  // namespace halftone::test
