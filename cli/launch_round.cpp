// SPDX-License-Identifier: Apache-2.0
#include "cli/launch_round.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <set>

#include "cli/launch_environment.h"
#include "cli/program.h"
#include "halftone/system/file.h"

namespace halftone::cli {
namespace {

using std::chrono::milliseconds;

constexpr int kUserMistake = 2;
// After the first failure: who is the cause may be seen a moment after those who suffer from it.
constexpr milliseconds kMoment{300};
// After a user's mistake: the others come to the same one, some of them later on a busy machine.
constexpr milliseconds kMomentOfMistakes{2000};
constexpr milliseconds kLongestMoment{30000};
constexpr int kTimesAsLate = 3;
constexpr milliseconds kGrace{5000};  // from SIGTERM to SIGKILL
constexpr milliseconds kTick{50}, kLongTick{1000};

int null_input() {
  static const int descriptor = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw_file_error("read", "/dev/null", errno);
  return descriptor;
}

// 0: it is a cause by itself. Whoever loses a partner ends with an error, or aborts.
int suspicion(const ProcessEnd& end) {
  if (end.signal != 0 && end.signal != SIGABRT) return 0;
  return end.exit_code == kUserMistake ? 1 : 2;
}

}  // namespace

LaunchRound::LaunchRound(const LaunchPlan& plan, SignalInbox& inbox,
                         std::optional<int>& interruption)
    : plan_(plan), inbox_(inbox), interruption_(interruption) {}

RoundEnd LaunchRound::run(int restart) {
  begin_ = Clock::now();
  start(restart);
  while (!is_over()) {
    wait_for_news();
    relay_output();
    for (const int signal : inbox_.take()) on_signal(signal);
    collect_ends();
    advance();
  }
  relay_output();
  return round_end();
}

void LaunchRound::start(int restart) {
  const LaunchEnvironment environment(plan_, restart);
  for (int local_rank = 0; local_rank < plan_.processes; ++local_rank)
    start_member(local_rank, environment.of(local_rank));
}

void LaunchRound::start_member(int local_rank, std::vector<std::string> environment) {
  Member& member = members_.emplace_back();
  member.rank = plan_.first_rank() + local_rank;
  ChildOptions options{.argv = plan_.argv, .environment = std::move(environment)};
  // What stands in a group of its own is stopped when it reads from the terminal.
  if (member.rank != 0 || isatty(STDIN_FILENO) == 1) options.input = null_input();
  if (member.rank != 0) {
    RankOutput& output = member.output.emplace(member.rank, plan_.is_halftone);
    options.output = output.out().write_end();
    options.error = output.error().write_end();
  }
  member.process.emplace(options);
  if (!member.output) return;
  member.output->out().close_write_end();
  member.output->error().close_write_end();
}

bool LaunchRound::all_have_ended() {
  return std::all_of(members_.begin(), members_.end(),
                     [](Member& member) { return member.process->end().has_value(); });
}

// What a process that we ended has left behind gets as long as a process itself.
bool LaunchRound::is_over() {
  if (!all_have_ended()) return false;
  if (phase_ != Phase::kEnding) return true;
  return std::none_of(members_.begin(), members_.end(),
                      [](Member& member) { return member.process->group_is_there(); });
}

void LaunchRound::wait_for_news() {
  std::vector<pollfd> descriptors = {{.fd = inbox_.descriptor(), .events = POLLIN, .revents = 0}};
  for (Member& member : members_) {
    if (!member.output) continue;
    for (const LinePipe* pipe : {&member.output->out(), &member.output->error()})
      if (pipe->read_end() >= 0)
        descriptors.push_back({.fd = pipe->read_end(), .events = POLLIN, .revents = 0});
  }
  const milliseconds longest = phase_ == Phase::kRunning ? kLongTick : kTick;
  poll(descriptors.data(), descriptors.size(), static_cast<int>(longest.count()));
}

void LaunchRound::relay_output() {
  for (Member& member : members_)
    if (member.output) {
      const bool ended = member.process->end().has_value();  // first: then all of it is in the pipe
      member.output->relay(ended);
    }
}

void LaunchRound::on_signal(int signal) {
  if (signal == SIGCHLD) return;
  if (signal == SIGTSTP) return stop_and_go_on();
  if (signal == SIGUSR1 || signal == SIGUSR2) return signal_all(signal);
  if (!interruption_) {
    interruption_ = signal;
    return signal_all(signal);
  }
  if (signal == SIGHUP) return;  // the terminal and the shell in it both send one
  signal_all(SIGKILL);
  enter(Phase::kKilling, kGrace);
}

// Ctrl-Z reaches us alone.
void LaunchRound::stop_and_go_on() {
  signal_all(SIGTSTP);
  raise(SIGSTOP);
  signal_all(SIGCONT);
}

void LaunchRound::collect_ends() {
  for (Member& member : members_) {
    const std::optional<ProcessEnd>& end = member.process->end();
    if (!end || member.was_collected) continue;
    member.was_collected = true;
    if (is_failure(*end)) failures_.push_back({member.rank, *end});
  }
}

// Of what a signal has ended, neither the signal nor the exit codes that stand for it are.
bool LaunchRound::is_failure(const ProcessEnd& end) const {
  if (!end.failed() || phase_ == Phase::kEnding || phase_ == Phase::kKilling) return false;
  if (!interruption_) return true;
  constexpr int kHangUp = 129, kInterrupted = 130;
  const int code = end.shell_code();
  return code != 128 + *interruption_ && code != kHangUp && code != kInterrupted;
}

void LaunchRound::advance() {
  if (phase_ == Phase::kRunning && !failures_.empty()) {
    enter(Phase::kJudging, moment());
  } else if (phase_ == Phase::kJudging && Clock::now() >= deadline_) {
    signal_all(SIGTERM);
    enter(Phase::kEnding, kGrace);
  } else if (phase_ == Phase::kEnding && Clock::now() >= deadline_) {
    signal_all(SIGKILL);
    enter(Phase::kKilling, kGrace);
  }
}

milliseconds LaunchRound::moment() const {
  if (!plan_.is_halftone || failures_[0].end.exit_code != kUserMistake) return kMoment;
  const auto taken = std::chrono::duration_cast<milliseconds>(Clock::now() - begin_);
  return std::clamp(kTimesAsLate * taken, kMomentOfMistakes, kLongestMoment);
}

void LaunchRound::enter(Phase phase, milliseconds limit) {
  phase_ = phase;
  deadline_ = Clock::now() + limit;
}

void LaunchRound::signal_all(int signal) {
  for (Member& member : members_) member.process->signal_group(signal);
}

RankEnd LaunchRound::cause() const {
  return *std::min_element(
      failures_.begin(), failures_.end(),
      [](const RankEnd& a, const RankEnd& b) { return suspicion(a.end) < suspicion(b.end); });
}

// Says the errors that were held back, each text once. Returns whether all have ended with a user's
// mistake that stands on stderr as halftone's own.
bool LaunchRound::say_mistakes() {
  const auto made_a_mistake = [](Member& member) {
    return member.process->end()->exit_code == kUserMistake;
  };
  const bool all = std::all_of(members_.begin(), members_.end(), made_a_mistake);
  const bool first_has_said_it = !members_[0].output && made_a_mistake(members_[0]);
  std::set<std::string> texts;
  for (Member& member : members_)
    if (member.output && member.output->held()) texts.insert(*member.output->held());
  const bool one_for_all = all && !first_has_said_it && texts.size() == 1;
  if (one_for_all) say(*texts.begin() + "\n");
  for (Member& member : members_) {
    if (!member.output || !member.output->held()) continue;
    const bool is_new = texts.erase(*member.output->held()) > 0;
    const bool is_said = first_has_said_it || one_for_all || !is_new;
    if (!is_said || !made_a_mistake(member)) member.output->say_held();
  }
  return plan_.is_halftone && all && (first_has_said_it || one_for_all);
}

int LaunchRound::quiet_exit_code() {
  for (Member& member : members_) {
    const ProcessEnd& end = *member.process->end();
    if (!end.failed()) continue;
    return end.signal == SIGKILL ? 128 + interruption_.value_or(SIGKILL) : end.shell_code();
  }
  return 0;
}

RoundEnd LaunchRound::round_end() {
  collect_ends();
  const bool is_said = say_mistakes();
  if (failures_.empty()) return {.exit_code = quiet_exit_code()};
  const RankEnd failure = cause();
  return {.failure = failure, .is_said = is_said, .exit_code = failure.end.shell_code()};
}

}  // namespace halftone::cli
