// SPDX-License-Identifier: Apache-2.0
#include "cli/launch_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <utility>

#include "cli/command_words.h"
#include "cli/launch_round.h"
#include "cli/program.h"
#include "cli/train_command.h"
#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/machine/machine_settings.h"

namespace halftone::cli {
namespace {

constexpr std::int64_t kMostProcesses = 1024, kMostNodes = 65536, kMostRestarts = 1'000'000;
constexpr std::int64_t kLongestWait = 10'000'000;  // seconds

struct LaunchArguments {
  std::optional<std::int64_t> processes;
  std::int64_t min_processes = 0;
  std::int64_t nodes = 1, node_rank = 0;
  std::string master_addr;
  std::int64_t master_port = 0;
  std::int64_t restarts = 0;
  std::int64_t timeout_s = 0;  // 0: what the environment says
  std::string shown_words;     // for --help alone
};

void check_range(const char* flag, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value < least || value > most)
    throw UserError(
        fmt::format("{}: expected a whole number from {} to {}, got {}", flag, least, most, value));
}

void check_nodes(const LaunchArguments& arguments) {
  check_range("--nodes", arguments.nodes, 1, kMostNodes);
  if (arguments.nodes == 1) {
    if (arguments.node_rank != 0)
      throw UserError("--node-rank: expected --nodes as well, got none");
    return;
  }
  check_range("--node-rank", arguments.node_rank, 0, arguments.nodes - 1);
  if (arguments.master_addr.empty())
    throw UserError("--nodes: expected --master-addr with a name or address of node 0, got none");
  if (arguments.master_port == 0)
    throw UserError("--nodes: expected --master-port with a port that is free on node 0, got none");
  if (arguments.min_processes > 0)
    throw UserError("--min-processes is for one node: on others ranks would not follow");
}

void check(const LaunchArguments& arguments) {
  if (!arguments.processes)
    throw UserError("--processes is required; see 'halftone launch --help'");
  check_range("--processes", *arguments.processes, 1, kMostProcesses);
  check_range("--restarts", arguments.restarts, 0, kMostRestarts);
  if (arguments.timeout_s != 0) check_range("--timeout-s", arguments.timeout_s, 1, kLongestWait);
  if (arguments.master_port != 0) check_range("--master-port", arguments.master_port, 1, 65535);
  if (arguments.min_processes != 0)
    check_range("--min-processes", arguments.min_processes, 1, *arguments.processes);
  check_nodes(arguments);
}

/// The words of a command of ours, after "launch" and its flags.
void check_words(const CLI::App& app, const std::vector<std::string>& words) {
  const std::string& command = words.front();
  if (command == "launch")
    throw UserError("expected a command that launch can start, got launch itself");
  const std::vector<std::string> names = command_names(app);
  const bool is_ours = std::find(names.begin(), names.end(), command) != names.end();
  if (!is_ours && !nearest_match(command, names))
    throw UserError(fmt::format(
        "there is no command '{0}'; a program goes behind --: halftone launch ... -- {0}",
        command));
  check_command(app, words);
}

std::string this_program() {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) throw SystemError(fmt::format("cannot find this program: {}", error.message()));
  return path.string();
}

std::vector<std::string> command_line(const std::vector<std::string>& words, bool is_halftone) {
  std::vector<std::string> argv;
  if (is_halftone) argv.push_back(this_program());
  argv.insert(argv.end(), words.begin(), words.end());
  return argv;
}

// Threads beyond the cores only wait for each other.
int threads_of_each(std::int64_t processes) {
  if (std::getenv("OMP_NUM_THREADS") != nullptr) return 0;
  return static_cast<int>(std::max<std::int64_t>(1, usable_cpus(machine_settings()) / processes));
}

/// What is started, at first and after a death.
struct Launch {
  LaunchPlan plan;
  std::vector<std::string> argv_to_go_on;
  int restarts = 0;
  int min_processes = 0;  // 0: always as many as at first
  int first_processes = 0;
};

Launch launch_of(const CLI::App& app, const LaunchArguments& arguments,
                 std::vector<std::string> words) {
  check(arguments);
  const bool is_program = !words.empty() && words.front() == "--";
  if (is_program) words.erase(words.begin());
  if (words.empty())
    throw UserError(is_program ? "expected a program and its arguments after --, got none"
                               : "expected a command to start, such as train; see 'halftone launch "
                                 "--help'");
  if (!is_program) check_words(app, words);
  const bool goes_on = arguments.restarts > 0 && !is_program && words.front() == "train";
  return {
      .plan = {.argv = command_line(words, !is_program),
               .is_halftone = !is_program,
               .processes = static_cast<int>(*arguments.processes),
               .nodes = static_cast<int>(arguments.nodes),
               .node_rank = static_cast<int>(arguments.node_rank),
               .master_addr = arguments.master_addr.empty() ? "127.0.0.1" : arguments.master_addr,
               .master_port = static_cast<int>(arguments.master_port),
               .threads = threads_of_each(*arguments.processes),
               .timeout_s = static_cast<int>(arguments.timeout_s)},
      .argv_to_go_on = command_line(goes_on ? words_to_go_on(words) : words, !is_program),
      .restarts = static_cast<int>(arguments.restarts),
      .min_processes = static_cast<int>(arguments.min_processes),
      .first_processes = static_cast<int>(*arguments.processes)};
}

std::string described(const RankEnd& failure, int world_size) {
  const std::string who = fmt::format("process {} of {}", failure.rank, world_size);
  return failure.end.signal != 0
             ? fmt::format("{} was killed by {}", who, signal_name(failure.end.signal))
             : fmt::format("{} ended with exit code {}", who, failure.end.exit_code);
}

// A user's mistake would be made again, and what a signal has stopped is to be stopped.
bool may_start_again(const ProcessEnd& end) {
  constexpr int kUserMistake = 2, kHangUp = 129, kInterrupted = 130;
  return end.signal != 0 || (end.exit_code != kUserMistake && end.exit_code != kHangUp &&
                             end.exit_code != kInterrupted);
}

// Fewer processes can share a batch that was made for more if their number divides the other.
int fewer_processes(const Launch& launch) {
  for (int fewer = launch.plan.processes - 1; fewer >= launch.min_processes; --fewer)
    if (launch.first_processes % fewer == 0) return fewer;
  return launch.plan.processes;
}

void prepare_restart(Launch& launch) {
  launch.plan.argv = launch.argv_to_go_on;
  if (launch.min_processes == 0) return;
  launch.plan.processes = fewer_processes(launch);
  launch.plan.threads = threads_of_each(launch.plan.processes);
}

int run(Launch launch) {
  adopt_orphans();
  SignalInbox inbox({SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGUSR1, SIGUSR2, SIGCHLD});
  std::optional<int> interruption;
  for (int restart = 0;; ++restart) {
    const RoundEnd end = LaunchRound(launch.plan, inbox, interruption).run(restart);
    if (!end.failure || end.is_said) return end.exit_code;
    const std::string what = described(*end.failure, launch.plan.world_size());
    if (interruption || restart == launch.restarts || !may_start_again(end.failure->end)) {
      say(fmt::format("{}{}\n", kErrorWords, what));
      return end.exit_code;
    }
    prepare_restart(launch);
    say(fmt::format("halftone: warning: {}; {} again (restart {} of {})\n", what,
                    launch.plan.processes == 1
                        ? "1 process starts"
                        : fmt::format("{} processes start", launch.plan.processes),
                    restart + 1, launch.restarts));
  }
}

void add_flags(CLI::App& command, LaunchArguments& arguments) {
  command
      .add_option("COMMAND", arguments.shown_words,
                  "What to start: a command of halftone with its arguments, or, after --, any "
                  "program with its own")
      ->type_name("");
  const auto number = [&](const char* flag, auto& value, const char* description) {
    command.add_option(flag, value, description)->type_name("N");
  };
  number("--processes", arguments.processes, "Processes on this node (required)");
  number("--nodes", arguments.nodes, "Nodes; launch is run on each of them [1]");
  number("--node-rank", arguments.node_rank,
         "This node's number, from 0; its ranks begin with it times --processes [0]");
  command
      .add_option("--master-addr", arguments.master_addr,
                  "Name or address of node 0, where rank 0 listens [127.0.0.1 on one node]")
      ->type_name("HOST");
  number("--master-port", arguments.master_port,
         "Port that rank 0 listens on [a free one on one node]");
  number("--restarts", arguments.restarts,
         "When a process dies, end all and start them again, so many times at most [0]");
  number("--timeout-s", arguments.timeout_s,
         "Seconds that processes wait for one that lives and does not come "
         "[HALFTONE_PROCESS_TIMEOUT, else 1800]");
  number("--min-processes", arguments.min_processes,
         "A restart takes fewer processes, the next number that divides --processes, down to this "
         "one [always --processes]");
}

constexpr const char* kFooter =
    "Each process gets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, GROUP_RANK,\n"
    "MASTER_ADDR, MASTER_PORT and TORCHELASTIC_RESTART_COUNT, as from torchrun, and\n"
    "OMP_NUM_THREADS, unless it is set: the cores that may be used, divided by the\n"
    "processes. No process is bound to cores of its own.\n"
    "\n"
    "Rank 0 has the terminal, and stdout to itself. What the others write to stdout or\n"
    "stderr goes to stderr, each line after \"[rank 2] \".\n"
    "\n"
    "If a process fails, the others get SIGTERM and, after five seconds, SIGKILL. The\n"
    "last line names the one that failed first by its rank, and its exit code (128 + N\n"
    "after signal N) becomes that of launch. A signal to launch (Ctrl-C) goes to all\n"
    "once; a second one kills them. None outlives launch.\n"
    "\n"
    "A user's mistake (exit code 2) and a process that was stopped (129, 130) restart\n"
    "nothing. A train command that is started again goes on from its last checkpoint:\n"
    "it is given --resume auto.\n"
    "\n"
    "Examples:\n"
    "  halftone launch --processes 2 train --data poems.txt --out runs/poems\n"
    "  halftone launch --processes 8 --restarts 3 train small.toml --out runs/small\n"
    "  halftone launch --processes 4 -- ./my_trainer --epochs 3\n"
    "  halftone launch --processes 8 --nodes 2 --node-rank 0 --master-addr node0 --master-port "
    "29500 train small.toml    # and on the other node with --node-rank 1";

}  // namespace

std::vector<std::string> take_launched_words(std::vector<std::string>& args) {
  if (args.empty() || args.front() != "launch") return {};
  auto at = std::next(args.begin());
  while (at != args.end() && at->starts_with("--") && *at != "--") {
    const bool has_value_behind = *at != "--help" && at->find('=') == std::string::npos;
    at += has_value_behind ? std::min<std::ptrdiff_t>(2, args.end() - at) : 1;
  }
  std::vector<std::string> words(at, args.end());
  args.erase(at, args.end());
  return words;
}

void add_launch_command(CLI::App& app, std::vector<std::string> words) {
  CLI::App* command = app.add_subcommand("launch", "Start several processes of a command");
  const auto arguments = std::make_shared<LaunchArguments>();
  add_flags(*command, *arguments);
  command->footer(kFooter);
  command->callback([&app, arguments, words = std::move(words)] {
    const int code = run(launch_of(app, *arguments, words));
    if (code != 0) throw Exit{code};
  });
}

}  // namespace halftone::cli
