// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/child_process.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <thread>

#include "halftone/core/error.h"
#include "support/message_of.h"
#include "support/temp_folder.h"

namespace halftone::child_process_test {
namespace {

using test::read_text;
using test::TempFolder;

bool comes(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

ChildOptions shell(const std::string& script) {
  return {.argv = {"sh", "-c", script}, .environment = {"PATH=/usr/bin:/bin", "WORD=a b"}};
}

ProcessEnd end_of(const std::string& script) {
  ChildProcess child(shell(script));
  EXPECT_TRUE(comes([&] { return child.end().has_value(); }));
  return child.end().value_or(ProcessEnd{});
}

TEST(ChildProcess, TellsHowItEnded) {
  const ProcessEnd done = end_of("true"), failed = end_of("exit 3"), killed = end_of("kill -9 $$");
  EXPECT_FALSE(done.failed());
  EXPECT_EQ(failed.exit_code, 3);
  EXPECT_EQ(failed.shell_code(), 3);
  EXPECT_EQ(killed.signal, SIGKILL);
  EXPECT_TRUE(killed.failed());
  EXPECT_EQ(killed.shell_code(), 128 + SIGKILL);
}

TEST(ChildProcess, HasItsStreamsItsEnvironmentAndAGroup) {
  const TempFolder folder;
  const std::string path = folder / "out";
  ChildOptions options =
      shell("echo \"$WORD ${HOME-no home}\"; echo $$ $(cut -d' ' -f5 /proc/$$/stat)");
  options.output = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  ChildProcess child(options);
  close(options.output);
  ASSERT_TRUE(comes([&] { return child.end().has_value(); }));
  const std::string pid = std::to_string(child.pid());
  EXPECT_EQ(read_text(path), "a b no home\n" + pid + " " + pid + "\n");
}

// What a program that ignores a broken pipe starts must not.
TEST(ChildProcess, DiesOfABrokenPipe) {
  const auto before = std::signal(SIGPIPE, SIG_IGN);
  EXPECT_EQ(end_of("kill -PIPE $$; exit 5").signal, SIGPIPE);
  std::signal(SIGPIPE, before);
}

TEST(ChildProcess, NamesAProgramThatIsMissing) {
  const std::string message = test::message_of<UserError>(
      [] { const ChildProcess child({.argv = {"/no/such/program"}, .environment = {}}); });
  EXPECT_EQ(message, "cannot start '/no/such/program': No such file or directory");
}

TEST(ChildProcess, ItsGroupIsSignalledWithIt) {
  adopt_orphans();
  ChildProcess child(shell("sleep 600 & exit 0"));
  ASSERT_TRUE(comes([&] { return child.end().has_value(); }));
  EXPECT_TRUE(child.group_is_there());
  child.signal_group(SIGTERM);
  EXPECT_TRUE(comes([&] { return !child.group_is_there(); }));
}

TEST(ChildProcess, EndsWithItsOwner) {
  pid_t pid = -1;
  {
    const ChildProcess child(shell("exec sleep 600"));
    pid = child.pid();
    EXPECT_EQ(kill(pid, 0), 0);
  }
  EXPECT_EQ(kill(pid, 0), -1);
}

TEST(SignalName, IsTheOneThatPeopleKnow) {
  EXPECT_EQ(signal_name(SIGKILL), "SIGKILL");
  EXPECT_EQ(signal_name(SIGRTMIN + 1), "signal " + std::to_string(SIGRTMIN + 1));
}

}  // namespace
}  // namespace halftone::child_process_test
