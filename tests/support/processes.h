// SPDX-License-Identifier: Apache-2.0
// Tests of what several processes do together. A test starts its own program again, once per
// process:
//
//   TEST(Unit, WorksInFour) {
//     test::in_processes(4, [] {
//       const auto group = join_process_group(find_process_place());
//       EXPECT_EQ(group->size(), 4);  // a failure in any process is one of the test
//     });
//   }
//
// The started programs run this test alone, up to the same call; there they run the body and end,
// with 0 if all expectations held, 2 after a UserError, 1 after any other failure or exception,
// whose line is "halftone: error: ...", as the program's. What stands before the call runs in all
// of them: let the call come first. They have the variables that torchrun sets, for a free port of
// this host, and one thread each. Files for each other, and for the test, they write into
// shared_folder(), the test's folder().
//
// A test that disturbs its processes, or wants to see what they say, keeps them, once:
//
//   test::Processes processes({.count = 4}, [] { ... std::puts("ready"); std::fflush(stdout); ...
//   }); processes.wait_for_output(2, "ready"); processes.signal(2, SIGKILL); const
//   std::vector<test::Ended> ended = processes.wait(); EXPECT_EQ(ended[0].exit_code, 1);
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "support/temp_folder.h"

namespace halftone::test {

struct ProcessesOptions {
  int count = 2;
  std::map<std::string, std::string> environment = {};  // besides torchrun's, or in their place
  std::chrono::milliseconds deadline = std::chrono::seconds(60);  // for all of them, from the start
};

struct Ended {
  int exit_code = 0;   // 128 + N when signal N ended it
  std::string output;  // stdout and stderr
  /// The last line of the output that starts with "halftone: error: ", without that; else empty.
  std::string error() const;
};

class Processes {
 public:
  /// Starts the processes, or in one of them runs `body` and does not return.
  Processes(const ProcessesOptions& options, const std::function<void()>& body);
  Processes(const ProcessesOptions& options, const std::function<void()>& body, int call);
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;
  /// Ends those that still run.
  ~Processes();

  /// A folder that the processes know as shared_folder().
  std::filesystem::path folder() const;
  void signal(int rank, int number);
  /// Until the process has written `text`; fails the test at the deadline.
  void wait_for_output(int rank, const std::string& text);
  bool has_ended(int rank);
  /// Until all have ended; those that run at the deadline are ended, and the test fails. Those in
  /// `left_alone`, such as stopped ones, are ended when the others have.
  std::vector<Ended> wait(const std::vector<int>& left_alone = {});

 private:
  struct Process {
    pid_t id = 0;
    bool ended = false;
    int exit_code = 0;
  };
  std::filesystem::path output_of(int rank) const;
  void start(int rank, const ProcessesOptions& options, int port);
  bool past_deadline(const std::string& awaited);

  std::unique_ptr<TempFolder> folder_;
  std::vector<Process> processes_;
  std::chrono::steady_clock::time_point deadline_;
};

/// Within a body: the folder() of its Processes.
std::filesystem::path shared_folder();

/// Runs `body` in `count` processes and expects that all of them end well.
void in_processes(int count, const std::function<void()>& body);

}  // namespace halftone::test
