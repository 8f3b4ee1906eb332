// SPDX-License-Identifier: Apache-2.0
// Who has gone, or stands still. When one process of a group dies, the others fail one after
// another, and the error of each tells of the next. A watch finds the first cause, and all
// processes name it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "halftone/dist/watch_state_impl.h"

namespace halftone {

class ProcessWatch {
 public:
  ProcessWatch(const ProcessPlace& place, const ProcessGroupOptions& options,
               StoreConnection connection);
  ProcessWatch(const ProcessWatch&) = delete;
  ProcessWatch& operator=(const ProcessWatch&) = delete;
  /// Tells the others that this process leaves, with an error if an exception is on its way. Takes
  /// seconds at most.
  ~ProcessWatch();

  struct Connections {
    std::function<std::vector<std::int64_t>()> lost;  ///< processes whose connections have closed
    std::function<void()> abort_waits;                ///< ends all waiting for messages
  };
  /// Called from a thread of the watch's, until stop().
  void observe(Connections connections);
  void stop();

  /// Counts a twin of the group, which is number 0, and returns its number.
  std::size_t add_group();
  /// Counts an operation of a group, which must be the same everywhere. Throws ProcessGroupError
  /// when there is a fault.
  void begin_operation(std::size_t group, const std::string& operation);
  void begin_wait(std::size_t group);
  void end_wait(std::size_t group);
  /// The first cause, when waiting for `rank` has failed.
  [[noreturn]] void throw_cause(std::int64_t rank);
  /// The first cause if one is known, else `message`.
  [[noreturn]] void throw_fault_or(const std::string& message);
  void report_error(const std::string& error);

 private:
  void look();
  void look_once(Milliseconds passed, const Connections& connections);
  void leave();

  std::shared_ptr<WatchState> state_;
  int exceptions_;  // that were on their way already when the watch began
  Connections connections_;
  bool is_stopped_ = false;
  std::thread talker_, looker_;
};

}  // namespace halftone
