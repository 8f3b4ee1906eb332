// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <array>
#include <csignal>
#include <vector>

namespace halftone {

/// While it lives, the signals that it is made for are put down instead of acted on, for a loop
/// that waits for descriptors. One that is ignored when it begins (SIGHUP under nohup, SIGTSTP
/// without job control) stays ignored; but SIGINT, which shells have their background jobs ignore,
/// comes in. There may be one at a time.
class SignalInbox {
 public:
  /// Throws SystemError.
  explicit SignalInbox(std::vector<int> signals);
  ~SignalInbox();
  SignalInbox(const SignalInbox&) = delete;
  SignalInbox& operator=(const SignalInbox&) = delete;

  /// Readable when a signal has come.
  int descriptor() const { return ends_[0]; }
  /// Those that have come since the last call, in their order. Does not wait.
  std::vector<int> take();

 private:
  std::array<int, 2> ends_{};
  std::vector<int> signals_;
  std::vector<struct sigaction> previous_;
};

}  // namespace halftone
