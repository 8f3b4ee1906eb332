// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "halftone/core/error.h"
#include "halftone/system/file.h"

namespace halftone {
namespace {

/// What a child needs between fork() and exec(), where memory can't be allocated.
struct ChildStart {
  const ChildOptions* options;
  char* const* argv;
  char* const* environment;
  pid_t parent;
  int report;  // the pipe's end that errno is written to when the program can't be loaded
  sigset_t mask;
};

std::vector<char*> pointers_to(const std::vector<std::string>& strings) {
  std::vector<char*> result;
  result.reserve(strings.size() + 1);
  for (const std::string& string : strings) result.push_back(const_cast<char*>(string.c_str()));
  result.push_back(nullptr);
  return result;
}

// Handlers of ours must not run in the child, and exec() would pass on what is ignored. SIGHUP,
// which nohup has ignored, stays so.
void reset_signals(const sigset_t& mask) {
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction action {};
    if (sigaction(signal, nullptr, &action) != 0) continue;
    if (action.sa_handler == SIG_IGN && signal != SIGPIPE && signal != SIGXFSZ) continue;
    action.sa_handler = SIG_DFL;
    action.sa_flags = 0;
    sigaction(signal, &action, nullptr);
  }
  sigprocmask(SIG_SETMASK, &mask, nullptr);
}

[[noreturn]] void become(const ChildStart& start) {
  constexpr int kNotStarted = 127;
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != start.parent) _exit(kNotStarted);  // it ended before the line above
  reset_signals(start.mask);
  const ChildOptions& options = *start.options;
  if (dup2(options.input, STDIN_FILENO) >= 0 && dup2(options.output, STDOUT_FILENO) >= 0 &&
      dup2(options.error, STDERR_FILENO) >= 0)
    execvpe(start.argv[0], start.argv, start.environment);
  const int error = errno;
  if (write(start.report, &error, sizeof error) < 0) _exit(kNotStarted);
  _exit(kNotStarted);
}

pid_t fork_to(ChildStart& start) {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &start.mask);
  const pid_t child = fork();
  if (child == 0) become(start);
  const int error = errno;
  sigprocmask(SIG_SETMASK, &start.mask, nullptr);
  if (child < 0) throw SystemError(fmt::format("cannot start a process: {}", std::strerror(error)));
  return child;
}

// The pipe closes without a word when the program has been loaded.
int reported_error(int descriptor) {
  int error = 0;
  ssize_t got = 0;
  do got = read(descriptor, &error, sizeof error);
  while (got < 0 && errno == EINTR);
  return got == sizeof error ? error : 0;
}

ProcessEnd end_of(int status) {
  return WIFEXITED(status) ? ProcessEnd{.exit_code = WEXITSTATUS(status)}
                           : ProcessEnd{.signal = WTERMSIG(status)};
}

void reap(pid_t child) {
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace

ChildProcess::ChildProcess(const ChildOptions& options) {
  HALFTONE_CHECK(!options.argv.empty(), "[ChildProcess] expected a program");
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0)
    throw SystemError(fmt::format("cannot start a process: {}", std::strerror(errno)));
  const std::vector<char*> argv = pointers_to(options.argv);
  const std::vector<char*> environment = pointers_to(options.environment);
  ChildStart start{.options = &options,
                   .argv = argv.data(),
                   .environment = environment.data(),
                   .parent = getpid(),
                   .report = ends[1],
                   .mask = {}};
  try {
    pid_ = fork_to(start);
  } catch (...) {
    close(ends[0]);
    close(ends[1]);
    throw;
  }
  close(ends[1]);
  const int error = reported_error(ends[0]);
  close(ends[0]);
  if (error == 0) return;
  reap(std::exchange(pid_, -1));
  throw_file_error("start", options.argv[0], error);
}

ChildProcess::~ChildProcess() {
  if (pid_ < 0 || end()) return;
  kill(-pid_, SIGKILL);
  reap(pid_);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), end_(other.end_) {}

const std::optional<ProcessEnd>& ChildProcess::end() {
  int status = 0;
  if (!end_ && waitpid(pid_, &status, WNOHANG) == pid_) end_ = end_of(status);
  return end_;
}

void ChildProcess::signal_group(int signal) {
  if (group_is_there()) kill(-pid_, signal);
}

bool ChildProcess::group_is_there() {
  if (!end()) return true;
  while (waitpid(-pid_, nullptr, WNOHANG) > 0) {  // adopted, and ended
  }
  return kill(-pid_, 0) == 0;
}

void adopt_orphans() { prctl(PR_SET_CHILD_SUBREAPER, 1); }

std::string signal_name(int signal) {
  const char* const name = sigabbrev_np(signal);
  return name == nullptr ? fmt::format("signal {}", signal) : fmt::format("SIG{}", name);
}

}  // namespace halftone
