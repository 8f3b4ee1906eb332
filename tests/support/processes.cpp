// SPDX-License-Identifier: Apache-2.0
#include "support/processes.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <thread>

#include "halftone/core/error.h"
#include "halftone/core/message.h"

extern char** environ;

namespace halftone::test {
namespace {

// Which call of its test the started program is to run the body of.
constexpr const char* kCall = "HALFTONE_TEST_CALL";
constexpr const char* kFolder = "HALFTONE_TEST_FOLDER";
constexpr std::chrono::milliseconds kPoll{5};

// How many calls the running test has made before this one.
int number_of_call() {
  static const testing::TestInfo* test = nullptr;
  static int calls = 0;
  const testing::TestInfo* const running = testing::UnitTest::GetInstance()->current_test_info();
  calls = running == test ? calls + 1 : 0;
  test = running;
  return calls;
}

bool is_started() { return std::getenv(kCall) != nullptr; }
bool is_wanted(int call) { return std::to_string(call) == std::getenv(kCall); }

int report(const std::exception& error, int exit_code) {
  std::fprintf(stderr, "halftone: error: %s\n", error_text(error).c_str());
  return exit_code;
}

[[noreturn]] void run_and_end(const std::function<void()>& body) {
  int exit_code = 0;
  try {
    body();
    exit_code = testing::Test::HasFailure() ? 1 : 0;
  } catch (const UserError& error) {
    exit_code = report(error, 2);
  } catch (const std::exception& error) {
    exit_code = report(error, 1);
  }
  std::exit(exit_code);
}

int free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  const bool bound = ::bind(socket, reinterpret_cast<sockaddr*>(&address), length) == 0 &&
                     ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &length) == 0;
  ::close(socket);
  if (!bound) throw SystemError("no port of 127.0.0.1 is free");
  return ntohs(address.sin_port);
}

std::vector<std::string> environment_of(int rank, const ProcessesOptions& options, int port) {
  const std::string count = std::to_string(options.count);
  std::map<std::string, std::string> variables{
      {"RANK", std::to_string(rank)}, {"LOCAL_RANK", std::to_string(rank)},
      {"WORLD_SIZE", count},          {"LOCAL_WORLD_SIZE", count},
      {"MASTER_ADDR", "127.0.0.1"},   {"MASTER_PORT", std::to_string(port)},
      {"OMP_NUM_THREADS", "1"}};
  for (const auto& [name, value] : options.environment) variables[name] = value;
  std::vector<std::string> texts;
  texts.reserve(variables.size());
  for (const auto& [name, value] : variables) texts.emplace_back(name).append("=").append(value);
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    if (!variables.contains(text.substr(0, text.find('=')))) texts.push_back(text);
  }
  return texts;
}

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace

std::string Ended::error() const {
  const std::string start = "halftone: error: ";
  std::string found;
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(start)) found = line.substr(start.size());
  }
  return found;
}

Processes::Processes(const ProcessesOptions& options, const std::function<void()>& body)
    : Processes(options, body, number_of_call()) {}

Processes::Processes(const ProcessesOptions& options, const std::function<void()>& body, int call)
    : processes_(options.count), deadline_(std::chrono::steady_clock::now() + options.deadline) {
  if (is_started()) {
    if (is_wanted(call)) run_and_end(body);
    throw std::logic_error("a test that keeps its Processes keeps one");
  }
  folder_ = std::make_unique<TempFolder>();
  std::filesystem::create_directory(folder());
  ProcessesOptions own = options;
  own.environment[kCall] = std::to_string(call);
  own.environment[kFolder] = folder();
  const int port = free_port();
  for (int rank = 0; rank < options.count; ++rank) start(rank, own, port);
}

Processes::~Processes() {
  for (Process& process : processes_) {
    if (process.id == 0 || process.ended) continue;
    ::kill(process.id, SIGKILL);
    ::waitpid(process.id, nullptr, 0);
  }
}

std::filesystem::path Processes::output_of(int rank) const {
  return folder_->path() / ("output." + std::to_string(rank));
}

std::filesystem::path Processes::folder() const { return folder_->path() / "shared"; }

void Processes::start(int rank, const ProcessesOptions& options, int port) {
  const testing::TestInfo& test = *testing::UnitTest::GetInstance()->current_test_info();
  std::vector<std::string> arguments{
      "/proc/self/exe",
      std::string("--gtest_filter=") + test.test_suite_name() + "." + test.name()};
  std::vector<std::string> variables = environment_of(rank, options, port);
  const std::vector<char*> argv = pointers_to(arguments), envp = pointers_to(variables);
  const int output =
      ::open(output_of(rank).c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
  const pid_t parent = ::getpid();
  const pid_t id = ::fork();
  if (id == 0) {  // only calls that are safe after a fork of a program with threads
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);
    ::dup2(output, STDOUT_FILENO);
    ::dup2(output, STDERR_FILENO);
    ::execve("/proc/self/exe", argv.data(), envp.data());
    ::_exit(127);
  }
  ::close(output);
  if (id < 0) throw SystemError("no process could be started");
  processes_[rank].id = id;
}

void Processes::signal(int rank, int number) {
  ASSERT_EQ(::kill(processes_[rank].id, number), 0) << "process " << rank;
}

bool Processes::has_ended(int rank) {
  Process& process = processes_[rank];
  int status = 0;
  if (!process.ended && ::waitpid(process.id, &status, WNOHANG) == process.id) {
    process.ended = true;
    process.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
  return process.ended;
}

bool Processes::past_deadline(const std::string& awaited) {
  if (std::chrono::steady_clock::now() < deadline_) return false;
  std::string outputs;
  for (int rank = 0; rank < static_cast<int>(processes_.size()); ++rank)
    outputs += "\n--- process " + std::to_string(rank) + ":\n" + text_of(output_of(rank));
  ADD_FAILURE() << "the deadline passed while the test waited for " << awaited << outputs;
  return true;
}

void Processes::wait_for_output(int rank, const std::string& text) {
  while (text_of(output_of(rank)).find(text) == std::string::npos) {
    if (past_deadline("'" + text + "' of process " + std::to_string(rank))) return;
    std::this_thread::sleep_for(kPoll);
  }
}

std::vector<Ended> Processes::wait(const std::vector<int>& left_alone) {
  const auto end = [this](int rank) {
    if (!has_ended(rank)) ::kill(processes_[rank].id, SIGKILL);
    while (!has_ended(rank)) std::this_thread::sleep_for(kPoll);
  };
  const auto is_left_alone = [&](int rank) {
    return std::find(left_alone.begin(), left_alone.end(), rank) != left_alone.end();
  };
  const int count = static_cast<int>(processes_.size());
  for (int rank = 0; rank < count; ++rank) {
    while (!is_left_alone(rank) && !has_ended(rank)) {
      if (past_deadline("the end of process " + std::to_string(rank))) break;
      std::this_thread::sleep_for(kPoll);
    }
  }
  std::vector<Ended> ended;
  for (int rank = 0; rank < count; ++rank) {
    end(rank);
    ended.push_back({processes_[rank].exit_code, text_of(output_of(rank))});
  }
  return ended;
}

std::filesystem::path shared_folder() {
  const char* const folder = std::getenv(kFolder);
  if (folder == nullptr) throw std::logic_error("only processes of a test have a shared folder");
  return folder;
}

void in_processes(int count, const std::function<void()>& body) {
  const int call = number_of_call();
  if (is_started() && !is_wanted(call)) return;
  const std::vector<Ended> ended = Processes({.count = count}, body, call).wait();
  for (int rank = 0; rank < count; ++rank)
    EXPECT_EQ(ended[rank].exit_code, 0) << "process " << rank << ":\n" << ended[rank].output;
}

}  // namespace halftone::test
