// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace halftone {

/// While one lives, the first SIGINT (Ctrl-C) or SIGTERM only sets a flag, so that work can be
/// saved; a second one ends the process at once, as it would without. Not nested.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
};

/// Whether a signal has come since the last InterruptGuard began.
bool interrupted();

}  // namespace halftone
