// SPDX-License-Identifier: Apache-2.0
// The built program, loaded once and run again and again: loading LibTorch takes a third of a
// second of processor time, far more than a refusal of arguments. Each request is a child process,
// which runs what the launcher runs.
//
// Usage: program_server PROGRAM (libhalftone_program.so)
//
// A request on stdin is strings, each behind its length in bytes, and their number before them: the
// folder to run in, the files of stdout and stderr, then the arguments. Every number is a line. The
// answer on stdout is the exit code, or minus the signal that ended the child.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

namespace {

using Main = int (*)(int, char**);

std::vector<std::string> read_request() {
  std::size_t count = 0;
  if (!(std::cin >> count)) return {};
  std::vector<std::string> strings(count);
  for (std::string& one : strings) {
    std::size_t length = 0;
    std::cin >> length;
    std::cin.get();  // the end of the line
    one.resize(length);
    std::cin.read(one.data(), static_cast<std::streamsize>(length));
  }
  return strings;
}

[[noreturn]] void run(Main program, std::vector<std::string>& request) {
  const bool ready = ::chdir(request[0].c_str()) == 0 &&
                     std::freopen("/dev/null", "r", stdin) != nullptr &&
                     std::freopen(request[1].c_str(), "w", stdout) != nullptr &&
                     std::freopen(request[2].c_str(), "w", stderr) != nullptr;
  if (!ready) std::abort();
  std::vector<char*> arguments;
  std::string name = "halftone";
  arguments.push_back(name.data());
  for (std::size_t i = 3; i < request.size(); ++i) arguments.push_back(request[i].data());
  arguments.push_back(nullptr);
  std::exit(program(static_cast<int>(arguments.size()) - 1, arguments.data()));
}

}  // namespace

int main(int count, char** arguments) {
  void* const library = count == 2 ? ::dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL) : nullptr;
  auto* const program =
      library == nullptr ? nullptr : reinterpret_cast<Main>(::dlsym(library, "halftone_main"));
  if (program == nullptr) return 1;
  for (std::vector<std::string> request = read_request(); request.size() > 2;
       request = read_request()) {
    const pid_t child = ::fork();
    if (child == 0) run(program, request);
    int status = 0;
    if (child < 0 || ::waitpid(child, &status, 0) != child) return 1;
    std::cout << (WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status)) << std::endl;
  }
  return 0;
}
