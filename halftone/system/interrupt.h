// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>

namespace halftone {

/// While one lives, the first SIGINT (Ctrl-C), SIGTERM or SIGHUP (the terminal was closed) only
/// sets a flag, so that work can be saved. A second SIGINT or SIGTERM ends the process at once, as
/// the first would without a guard; a second SIGHUP, which shells send, does not. A signal that the
/// program has a handler of its own for is left to it, and so is a SIGHUP that nohup has it ignore.
/// One guard within another takes nothing over.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
};

/// Whether a signal has come since the outermost InterruptGuard began.
bool interrupted();
/// The first signal that came.
std::optional<int> interrupting_signal();

}  // namespace halftone
