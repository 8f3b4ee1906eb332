// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "halftone/core/error.h"

namespace halftone {
namespace {

constexpr int kNotFound = 127;

[[noreturn]] void fail(const std::string& program, int error) {
  throw SystemError(fmt::format("cannot run {}: {}", program, std::strerror(error)));
}

class SpawnActions {
 public:
  SpawnActions(int output, const std::filesystem::path& folder) {
    posix_spawn_file_actions_init(&actions_);
    posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions_, output, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions_, output, STDERR_FILENO);
    posix_spawn_file_actions_addchdir_np(&actions_, folder.c_str());
  }
  ~SpawnActions() { posix_spawn_file_actions_destroy(&actions_); }
  SpawnActions(const SpawnActions&) = delete;
  SpawnActions& operator=(const SpawnActions&) = delete;

  const posix_spawn_file_actions_t* get() const { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_{};
};

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (const std::string& string : strings) result.push_back(const_cast<char*>(string.c_str()));
  result.push_back(nullptr);
  return result;
}

std::vector<std::string> c_locale_environment() {
  std::vector<std::string> result = {"LC_ALL=C"};
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry)
    if (!std::string_view(*entry).starts_with("LC_ALL=")) result.emplace_back(*entry);
  return result;
}

std::string read_all(int descriptor) {
  std::string result;
  std::array<char, 4096> buffer;
  while (true) {
    const ssize_t got = read(descriptor, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return result;
    result.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

int wait_for(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

ProcessResult run_process(const std::vector<std::string>& argv,
                          const std::filesystem::path& folder) {
  HALFTONE_CHECK(!argv.empty(), "[run_process] expected a program");
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) fail(argv[0], errno);
  const SpawnActions actions(ends[1], folder);
  const std::vector<std::string> environment = c_locale_environment();
  pid_t child = 0;
  const int error = posix_spawnp(&child, argv[0].c_str(), actions.get(), nullptr,
                                 pointers(argv).data(), pointers(environment).data());
  close(ends[1]);
  ProcessResult result;
  if (error == 0) result.output = read_all(ends[0]);
  close(ends[0]);
  if (error == ENOENT) return {.exit_code = kNotFound};
  if (error != 0) fail(argv[0], error);
  result.exit_code = wait_for(child);
  return result;
}

}  // namespace halftone
