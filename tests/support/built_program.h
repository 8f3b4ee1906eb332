// SPDX-License-Identifier: Apache-2.0
// The built program as a process: killed, measured, or with its streams apart.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <string>
#include <vector>

#include "support/paths.h"

extern char** environ;

namespace halftone::test {

/// Starts `halftone arguments` and sends its streams to the files; an empty name leaves a stream
/// where the test's own goes.
inline pid_t start_program(const std::vector<std::string>& arguments, const std::string& out,
                           const std::string& err) {
  std::vector<std::string> words = {std::string(kBuildDir) + "/halftone"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions{};
  posix_spawn_file_actions_init(&actions);
  const auto redirect = [&](int stream, const std::string& file) {
    if (!file.empty())
      posix_spawn_file_actions_addopen(&actions, stream, file.c_str(), O_WRONLY | O_CREAT | O_TRUNC,
                                       0600);
  };
  redirect(1, out);
  redirect(2, err);
  pid_t pid = -1;
  EXPECT_EQ(posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  return pid;
}

struct ProgramEnd {
  int code = 0;           // the exit code, or minus the signal that ended it
  double peak_bytes = 0;  // the most resident memory that it had
};

inline ProgramEnd wait_for_program(pid_t pid) {
  int status = 0;
  rusage usage{};
  EXPECT_EQ(wait4(pid, &status, 0, &usage), pid);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status),
          1024.0 * static_cast<double>(usage.ru_maxrss)};
}

}  // namespace halftone::test
