// SPDX-License-Identifier: Apache-2.0
// `halftone launch` with real processes: small shell programs, and halftone itself.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <thread>

#include "support/built_program.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::test::launch_test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;
using testing::UnorderedElementsAre;

constexpr auto kLongEnough = std::chrono::seconds(60);  // that it never comes is the failure

struct Outcome {
  int code = -1;
  std::string out, err;
};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::string last_line(const std::string& text) {
  const std::vector<std::string> lines = lines_of(text);
  return lines.empty() ? "" : lines.back();
}

bool comes(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kLongEnough;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

// A process that has ended but that nobody has waited for does not run.
bool runs(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text;
  if (!std::getline(file, text)) return false;
  const std::size_t end_of_name = text.rfind(')');
  return end_of_name != std::string::npos && text.at(end_of_name + 2) != 'Z';
}

std::vector<pid_t> children_of(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{0}/task/{0}/children", pid));
  return {std::istream_iterator<pid_t>(file), {}};
}

class Launch : public testing::Test {
 protected:
  std::string at(const std::string& name) const { return (folder_ / name).string(); }

  /// Of a shell's words after "halftone launch".
  Outcome launch(const std::string& words, const std::string& before = "true") {
    // Redirections among the words win over these.
    const std::string command =
        fmt::format("cd '{}' && {{ {}; }} && '{}/halftone' >'{}' 2>'{}' </dev/null launch {}",
                    folder_.path().string(), before, kBuildDir, at("out"), at("err"), words);
    const int status = std::system(command.c_str());
    return {WEXITSTATUS(status), read_text(at("out")), read_text(at("err"))};
  }

  /// Of several processes of a shell's script; "$dir" is a folder.
  pid_t start(const std::string& processes, const std::string& script) {
    return start_program({"launch", "--processes", processes, "--", "sh", "-c",
                          "dir=" + folder_.path().string() + "; " + script},
                         at("out"), at("err"));
  }

  bool appear(const std::vector<std::string>& names) {
    return comes([&] {
      return std::all_of(names.begin(), names.end(),
                         [&](const std::string& name) { return fs::exists(at(name)); });
    });
  }

  std::vector<pid_t> pids(const std::vector<std::string>& names) {
    std::vector<pid_t> result;
    for (const std::string& name : names) {
      EXPECT_TRUE(comes([&] { return read_text(at(name)).ends_with('\n'); })) << name;
      result.push_back(std::stoi(read_text(at(name))));
    }
    return result;
  }

  // Two at a time: most of it is loading the program.
  void expect_mistakes(const std::vector<std::pair<std::string, std::string>>& mistakes) {
    std::string script;
    for (std::size_t i = 0; i < mistakes.size(); ++i)
      script += fmt::format("({0}/halftone launch {1} >out{2} 2>err{2}; echo $? >code{2}) & {3}\n",
                            kBuildDir, mistakes[i].first, i, i % 2 == 1 ? "wait" : "");
    write_text(at("script"), script + "wait\n");
    ASSERT_EQ(std::system(fmt::format("cd {} && sh script </dev/null", at(".")).c_str()), 0);
    for (std::size_t i = 0; i < mistakes.size(); ++i) {
      const auto& [words, error] = mistakes[i];
      EXPECT_EQ(read_text(at(fmt::format("code{}", i))), "2\n") << words;
      EXPECT_EQ(read_text(at(fmt::format("out{}", i))), "") << words;
      const std::string said = read_text(at(fmt::format("err{}", i)));
      EXPECT_EQ(lines_of(said).size(), 1U) << words << '\n' << said;
      EXPECT_THAT(said, StartsWith("halftone: error: ")) << words;
      EXPECT_THAT(said, HasSubstr(error)) << words;
    }
  }

  TempFolder folder_;
};

constexpr const char* kSleep = "exec sleep 600";

TEST_F(Launch, EachProcessKnowsItsPlace) {
  const Outcome outcome = launch(
      "--processes 3 -- sh -c 'echo $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $GROUP_RANK "
      "$MASTER_ADDR ${TORCHELASTIC_USE_AGENT_STORE-unset} $TORCHELASTIC_RESTART_COUNT; "
      "echo $MASTER_PORT >>ports'",
      "export RANK=7 TORCHELASTIC_USE_AGENT_STORE=True");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "0 3 0 3 0 127.0.0.1 unset 0\n");
  EXPECT_THAT(lines_of(outcome.err), UnorderedElementsAre("[rank 1] 1 3 1 3 0 127.0.0.1 unset 0",
                                                          "[rank 2] 2 3 2 3 0 127.0.0.1 unset 0"));
  const std::vector<std::string> ports = lines_of(read_text(at("ports")));
  ASSERT_EQ(ports.size(), 3U);
  EXPECT_EQ(std::set<std::string>(ports.begin(), ports.end()).size(), 1U);
  EXPECT_GT(std::stoi(ports[0]), 1023);
}

TEST_F(Launch, RanksOfANodeFollowThoseOfTheOnesBefore) {
  const Outcome outcome = launch(
      "--processes 2 --nodes 3 --node-rank 1 --master-addr head --master-port 29500 -- sh -c "
      "'echo $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $GROUP_RANK "
      "$MASTER_ADDR:$MASTER_PORT'");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "") << "stdout is rank 0's";
  EXPECT_THAT(lines_of(outcome.err), UnorderedElementsAre("[rank 2] 2 6 0 2 1 head:29500",
                                                          "[rank 3] 3 6 1 2 1 head:29500"));
}

TEST_F(Launch, SaysHowLongProcessesWait) {
  const std::string show = "-- sh -c 'echo ${HALFTONE_PROCESS_TIMEOUT-unset}'";
  const std::string environment = "export HALFTONE_PROCESS_TIMEOUT=7";
  EXPECT_EQ(launch("--processes 1 --timeout-s 90 " + show, environment).out, "90\n");
  EXPECT_EQ(launch("--processes 1 " + show, environment).out, "7\n");
  EXPECT_EQ(launch("--processes 1 " + show, "unset HALFTONE_PROCESS_TIMEOUT").out, "unset\n");
}

TEST_F(Launch, SharesOutTheCoresUnlessTheEnvironmentSaysHow) {
  cpu_set_t cpus;
  ASSERT_EQ(sched_getaffinity(0, sizeof cpus, &cpus), 0);
  const std::string show = " -- sh -c 'echo $OMP_NUM_THREADS ${GOMP_SPINCOUNT-unset}'";
  const Outcome one = launch("--processes 1" + show, "unset OMP_NUM_THREADS GOMP_SPINCOUNT");
  const int threads = std::stoi(one.out);
  EXPECT_GE(threads, 1);
  EXPECT_LE(threads, CPU_COUNT(&cpus));
  EXPECT_THAT(one.out, testing::EndsWith(" unset\n"));
  const std::string many = std::to_string(CPU_COUNT(&cpus) + 1);
  EXPECT_THAT(launch("--processes " + many + show, "unset OMP_NUM_THREADS").out, StartsWith("1 "));
  EXPECT_THAT(launch("--processes 2" + show, "export OMP_NUM_THREADS=5").out, StartsWith("5 "));
}

TEST_F(Launch, ArgumentsReachAProgramAsTheyAre) {
  const Outcome outcome =
      launch("--processes=1 -- printf '%s|' --my_flag --pack -- 'a b' --processes 3");
  EXPECT_EQ(outcome.out, "--my_flag|--pack|--|a b|--processes|3|");
}

TEST_F(Launch, OtherRanksLinesHaveAPrefix) {
  const Outcome outcome = launch(
      "--processes 2 -- sh -c 'printf \"out\\nrest\"; printf \"err\\n\\nrest\" >&2; "
      "[ $RANK = 0 ] || head -c 200000 /dev/zero | tr \"\\0\" x'");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "out\nrest");
  EXPECT_THAT(outcome.err, HasSubstr("[rank 1] out\n"));
  EXPECT_THAT(outcome.err, HasSubstr("[rank 1] err\n[rank 1] \n"));
  EXPECT_THAT(outcome.err, HasSubstr("[rank 1] rest\n"));
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), 'x'), 200000);
}

TEST_F(Launch, Rank0SeesTheTerminal) {
  int terminal = -1, program_side = -1;
  std::array<char, 200> name{}, shown{};
  ASSERT_EQ(openpty(&terminal, &program_side, name.data(), nullptr, nullptr), 0);
  const Outcome outcome =
      launch("--processes 2 -- sh -c 'test -t 2 && echo terminal || echo none' 2>" +
             std::string(name.data()));
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "terminal\n");
  const ssize_t got = read(terminal, shown.data(), shown.size());
  ASSERT_GT(got, 0);
  // It may stand where rank 0's progress bar was.
  EXPECT_EQ(std::string(shown.data(), static_cast<std::size_t>(got)), "\r\x1b[K[rank 1] none\r\n");
  close(terminal);
  close(program_side);
}

TEST_F(Launch, Rank0AloneReadsStdin) {
  write_text(at("input"), "text");
  const Outcome outcome = launch("--processes 2 -- cat <input");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "text");
  EXPECT_EQ(outcome.err, "");
}

TEST_F(Launch, ADeathEndsAllAndIsNamed) {
  const Outcome outcome = launch(
      "--processes 3 -- sh -c 'echo $$ >pid$RANK; if [ $RANK = 1 ]; then "
      "while [ ! -s pid0 -o ! -s pid2 ]; do sleep 0.01; done; kill -9 $$; fi; exec sleep 600'");
  EXPECT_EQ(outcome.code, 128 + SIGKILL);
  EXPECT_EQ(outcome.err, "halftone: error: process 1 of 3 was killed by SIGKILL\n");
  for (const pid_t pid : pids({"pid0", "pid2"})) EXPECT_FALSE(runs(pid));
}

// Those that lose a partner end with an error, or abort. Here all have ended when the launcher
// looks.
TEST_F(Launch, TheDeadIsNamedNotThoseThatMissIt) {
  const pid_t launcher = start("3",
                               "echo $$ >$dir/pid$RANK; while [ ! -e $dir/go ]; do sleep 0.01; "
                               "done; case $RANK in 0) exit 1;; 1) kill -ABRT $$;; 2) kill -9 $$;; "
                               "esac");
  ASSERT_TRUE(appear({"pid0", "pid1", "pid2"}));
  const std::vector<pid_t> all = pids({"pid0", "pid1", "pid2"});
  kill(launcher, SIGSTOP);
  write_text(at("go"), "");
  EXPECT_TRUE(comes([&] { return std::none_of(all.begin(), all.end(), runs); }));
  kill(launcher, SIGCONT);
  EXPECT_EQ(wait_for_program(launcher).code, 128 + SIGKILL);
  EXPECT_EQ(last_line(read_text(at("err"))),
            "halftone: error: process 2 of 3 was killed by SIGKILL");
}

TEST_F(Launch, AnExitCodeStaysWhatItIs) {
  const Outcome outcome = launch(
      "--processes 2 -- sh -c '[ $RANK = 1 ] && { echo why >&2; exit 37; }; exec sleep 600'");
  EXPECT_EQ(outcome.code, 37);
  EXPECT_EQ(outcome.err, "[rank 1] why\nhalftone: error: process 1 of 2 ended with exit code 37\n");
}

TEST_F(Launch, WhatIgnoresSigtermIsKilled) {
  const Outcome outcome = launch(
      "--processes 2 -- sh -c 'if [ $RANK = 1 ]; then while [ ! -e ready ]; do sleep 0.01; done; "
      "exit 3; fi; trap \"\" TERM; echo $$ >ready; while :; do sleep 0.05; done'");
  EXPECT_EQ(outcome.code, 3);
  EXPECT_FALSE(runs(std::stoi(read_text(at("ready")))));
}

TEST_F(Launch, AMistakeThatAllMakeIsSaidOnce) {
  const Outcome outcome = launch("--processes 3 train --data nowhere.txt --out run");
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(lines_of(outcome.err).size(), 1U) << outcome.err;
  EXPECT_THAT(outcome.err, StartsWith("halftone: error: "));
  EXPECT_THAT(outcome.err, HasSubstr("nowhere.txt does not exist"));
  const Outcome elsewhere = launch(
      "--processes 2 --nodes 2 --node-rank 1 --master-addr a --master-port 29500 train --data "
      "nowhere.txt --out run");
  EXPECT_EQ(elsewhere.code, 2);
  EXPECT_EQ(elsewhere.err, outcome.err);
}

TEST_F(Launch, SignalsReachAllOnceAndASecondOneKills) {
  const pid_t launcher = start("2",
                               "trap 'echo term >>$dir/signals$RANK' TERM; echo $$ >$dir/pid$RANK; "
                               "while :; do sleep 0.02; done");
  ASSERT_TRUE(appear({"pid0", "pid1"}));
  const std::vector<pid_t> both = pids({"pid0", "pid1"});
  kill(launcher, SIGTERM);
  ASSERT_TRUE(appear({"signals0", "signals1"}));
  EXPECT_TRUE(runs(both[0]) && runs(both[1]) && runs(launcher));
  kill(launcher, SIGTERM);
  EXPECT_EQ(wait_for_program(launcher).code, 128 + SIGTERM);
  EXPECT_FALSE(runs(both[0]) || runs(both[1]));
  EXPECT_EQ(read_text(at("signals0")), "term\n");
  EXPECT_EQ(read_text(at("signals1")), "term\n");
  EXPECT_THAT(read_text(at("err")), Not(HasSubstr("halftone: error")));
}

TEST_F(Launch, WhatASignalHasStoppedAndSavedIsNoFailure) {
  const std::map<int, int> codes = {{SIGINT, 130}, {SIGHUP, 129}};
  for (const auto& [signal, code] : codes) {
    const pid_t launcher =
        start("2",
              "exec 2>/dev/null; trap 'exit 130' INT; trap 'exit 129' HUP; echo $$ >$dir/pid$RANK; "
              "while :; do sleep 0.02; done");
    ASSERT_TRUE(appear({"pid0", "pid1"}));
    kill(launcher, signal);
    EXPECT_EQ(wait_for_program(launcher).code, code);
    EXPECT_EQ(read_text(at("err")), "");
    fs::remove(at("pid0"));
    fs::remove(at("pid1"));
  }
}

TEST_F(Launch, NothingIsLeftWhenTheLauncherIsKilled) {
  const pid_t launcher = start("2", std::string("echo $$ >$dir/pid$RANK; ") + kSleep);
  ASSERT_TRUE(appear({"pid0", "pid1"}));
  const std::vector<pid_t> both = pids({"pid0", "pid1"});
  EXPECT_TRUE(runs(both[0]) && runs(both[1]));
  kill(launcher, SIGKILL);
  EXPECT_EQ(wait_for_program(launcher).code, -SIGKILL);
  EXPECT_TRUE(comes([&] { return !runs(both[0]) && !runs(both[1]); }));
}

TEST_F(Launch, RestartsAreCounted) {
  const Outcome outcome = launch(
      "--processes 2 --restarts 2 -- sh -c 'echo $TORCHELASTIC_RESTART_COUNT >>count$RANK; "
      "if [ $RANK = 1 ]; then [ $TORCHELASTIC_RESTART_COUNT = 2 ] || kill -9 $$; fi'");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(read_text(at("count0")), "0\n1\n2\n");
  EXPECT_EQ(read_text(at("count1")), "0\n1\n2\n");
  EXPECT_EQ(outcome.err,
            "halftone: warning: process 1 of 2 was killed by SIGKILL; 2 processes start again "
            "(restart 1 of 2)\n"
            "halftone: warning: process 1 of 2 was killed by SIGKILL; 2 processes start again "
            "(restart 2 of 2)\n");
}

TEST_F(Launch, RestartsMayTakeFewerProcessesAndEnd) {
  const Outcome outcome = launch(
      "--processes 4 --restarts 2 --min-processes 2 -- sh -c 'echo $WORLD_SIZE >>size$RANK; "
      "[ $RANK = 1 ] && exit 1; exec sleep 600'");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(read_text(at("size1")), "4\n2\n2\n");
  EXPECT_EQ(last_line(outcome.err), "halftone: error: process 1 of 2 ended with exit code 1");
}

TEST_F(Launch, AMistakeOrAStopRestartsNothing) {
  for (const char* code : {"2", "130"}) {
    const Outcome outcome =
        launch(fmt::format("--processes 1 --restarts 9 -- sh -c 'exit {}'", code));
    EXPECT_EQ(outcome.code, std::stoi(code));
    EXPECT_EQ(outcome.err,
              fmt::format("halftone: error: process 0 of 1 ended with exit code {}\n", code));
  }
}

// A real run: killed, started again from its checkpoint, and stopped.
TEST_F(Launch, ARestartedRunGoesOnFromItsCheckpoint) {
  std::string text;
  for (int i = 0; i < 60; ++i) text += fmt::format("line {} of the poem\n", i * i);
  write_text(at("poem.txt"), text);
  const pid_t launcher = start_program({"launch",
                                        "--processes",
                                        "1",
                                        "--restarts",
                                        "1",
                                        "train",
                                        "--preset",
                                        "tiny",
                                        "--model.dim",
                                        "16",
                                        "--model.n-layers",
                                        "1",
                                        "--data",
                                        at("poem.txt"),
                                        "--out",
                                        at("run"),
                                        "--max-steps",
                                        "1000000",
                                        "--save-every",
                                        "2",
                                        "--seq-len",
                                        "16",
                                        "--batch-size",
                                        "2"},
                                       at("out"), at("err"));
  const fs::path checkpoints = fs::path(at("run")) / "checkpoints";
  const auto has_saved = [&] { return fs::exists(checkpoints) && !fs::is_empty(checkpoints); };
  ASSERT_TRUE(comes(has_saved)) << read_text(at("err"));
  const std::vector<pid_t> children = children_of(launcher);
  ASSERT_EQ(children.size(), 1U);
  kill(children[0], SIGKILL);
  ASSERT_TRUE(comes([&] {
    return read_text(at("err")).find("1 process starts again (restart 1 of 1)") !=
           std::string::npos;
  }));
  const auto steps = [&] {
    return lines_of(read_text(fs::path(at("run")) / "metrics.jsonl")).size();
  };
  const std::size_t before = steps();
  EXPECT_TRUE(comes([&] { return steps() > before + 2; })) << read_text(at("err"));
  kill(launcher, SIGTERM);
  EXPECT_EQ(wait_for_program(launcher).code, 130);
  std::int64_t step = 0;
  for (const std::string& line : lines_of(read_text(fs::path(at("run")) / "metrics.jsonl")))
    EXPECT_EQ(nlohmann::json::parse(line).at("step"), ++step);
}

TEST_F(Launch, RefusesWhatMakesNoSense) {
  expect_mistakes({
      {"", "--processes is required; see 'halftone launch --help'"},
      {"--processes 0 train", "--processes: expected a whole number from 1 to 1024, got 0"},
      {"--procs 2 train", "there is no flag --procs"},
      {"--processes 2", "expected a command to start, such as train"},
      {"--processes 2 --", "expected a program and its arguments after --, got none"},
      {"--processes 2 trian", "there is no command 'trian'; did you mean 'train'?"},
      {"--processes 2 python x.py", "a program goes behind --: halftone launch ... -- py"},
      {"--processes 2 launch --processes 2 train", "got launch itself"},
      {"--processes 2 -- ./none", "cannot start './none': No such file or directory"},
      {"--processes 2 --nodes 2 train", "expected --master-addr"},
      {"--processes 2 --nodes 2 --node-rank 2 train", "from 0 to 1, got 2"},
      {"--processes 2 --node-rank 1 train", "--node-rank: expected --nodes as well"},
      {"--processes 2 --master-port 70000 train", "from 1 to 65535, got 70000"},
      {"--processes 2 --timeout-s -1 train", "from 1 to 10000000, got -1"},
      {"--processes 2 --restarts 1 train --data x --overwrite", "--overwrite replaces it"},
  });
}

}  // namespace
}  // namespace halftone::test::launch_test
