// SPDX-License-Identifier: Apache-2.0
// program_server.cpp as a child process of the test.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wordexp.h>

#include <array>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "support/paths.h"

extern char** environ;

namespace halftone::test {

/// The words of a shell's command line without operators; nothing where there are some, or nothing.
inline std::optional<std::vector<std::string>> shell_words(const std::string& line) {
  wordexp_t found{};
  if (wordexp(line.c_str(), &found, WRDE_NOCMD | WRDE_UNDEF) != 0) return {};
  std::vector<std::string> words(found.we_wordv, found.we_wordv + found.we_wordc);
  wordfree(&found);
  return words;
}

/// The built program, loaded when it is made. Its environment is that of then.
class ServedProgram {
 public:
  ServedProgram() {
    std::array<int, 2> requests{}, answers{};
    EXPECT_EQ(pipe2(requests.data(), O_CLOEXEC) + pipe2(answers.data(), O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions{};
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, requests[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, answers[1], STDOUT_FILENO);
    std::string server = std::string(kBuildDir) + "/tests/cli/program_server",
                program = std::string(kBuildDir) + "/libhalftone_program.so";
    std::array<char*, 3> arguments{server.data(), program.data(), nullptr};
    EXPECT_EQ(posix_spawn(&pid_, server.c_str(), &actions, nullptr, arguments.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(requests[0]);
    close(answers[1]);
    to_ = fdopen(requests[1], "w");
    from_ = fdopen(answers[0], "r");
  }
  ~ServedProgram() {
    std::fclose(to_);
    std::fclose(from_);
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
  }
  ServedProgram(const ServedProgram&) = delete;
  ServedProgram& operator=(const ServedProgram&) = delete;

  /// `strings`: the folder, the files of stdout and stderr, the arguments. Returns the exit code.
  int run(const std::vector<std::string>& strings) const {
    std::fprintf(to_, "%zu\n", strings.size());
    for (const std::string& one : strings) std::fprintf(to_, "%zu\n%s", one.size(), one.c_str());
    std::fflush(to_);
    int code = -1;
    EXPECT_EQ(std::fscanf(from_, "%d", &code), 1) << "the server has ended";
    return code;
  }

 private:
  pid_t pid_ = -1;
  std::FILE* to_ = nullptr;
  std::FILE* from_ = nullptr;
};

}  // namespace halftone::test
