// SPDX-License-Identifier: Apache-2.0
// A program that runs beside this one and does not outlive it.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace halftone {

struct ProcessEnd {
  int exit_code = 0;
  int signal = 0;  ///< that killed it; 0: it ended by itself
  bool failed() const { return exit_code != 0 || signal != 0; }
  /// As shells have it: 128 + the signal that killed it.
  int shell_code() const { return signal != 0 ? 128 + signal : exit_code; }
};

struct ChildOptions {
  std::vector<std::string> argv;         ///< argv[0] is looked up in PATH if it has no slash
  std::vector<std::string> environment;  ///< "NAME=value"
  int input = 0, output = 1, error = 2;  ///< descriptors that become its standard streams
};

/// A child that leads a process group of its own: a terminal's Ctrl-C does not reach it, and what
/// it starts is signalled with it. The system kills it as soon as the thread that started it is
/// gone.
class ChildProcess {
 public:
  /// Returns when the program has been loaded. Throws UserError where there is no such program, and
  /// SystemError when no process can be started. REQUIRES that argv is not empty.
  explicit ChildProcess(const ChildOptions& options);
  /// Kills it and its group if it has not ended.
  ~ChildProcess();
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;

  pid_t pid() const { return pid_; }
  /// Nothing while it runs. Does not wait.
  const std::optional<ProcessEnd>& end();
  /// Sends a signal to it and to what it has started, if any of them are still there.
  void signal_group(int signal);
  /// Whether it, or what it has started, is still there. A process that adopts_orphans() knows
  /// about what is left over; another may take a dead process for a living one.
  bool group_is_there();

 private:
  pid_t pid_ = -1;
  std::optional<ProcessEnd> end_;
};

/// Makes this process the parent of what its children leave behind when they end, so that they can
/// be waited for.
void adopt_orphans();

/// "SIGKILL"; "signal 35" where it has no name.
std::string signal_name(int signal);

}  // namespace halftone
