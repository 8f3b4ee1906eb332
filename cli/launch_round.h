// SPDX-License-Identifier: Apache-2.0
// One start of all processes of a launch, and their end.
#pragma once

#include <chrono>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "cli/launch_environment.h"
#include "cli/rank_output.h"
#include "halftone/system/child_process.h"
#include "halftone/system/signal_inbox.h"

namespace halftone::cli {

/// The process that failed first, or that made the others fail.
struct RankEnd {
  int rank = 0;
  ProcessEnd end;
};

struct RoundEnd {
  std::optional<RankEnd> failure;  // nothing: all are done, or a signal has ended them
  bool is_said = false;            // the failure is a user's mistake that stands on stderr already
  int exit_code = 0;
};

class LaunchRound {
 public:
  /// `interruption` is the first signal that has asked the launcher to end, in any round.
  LaunchRound(const LaunchPlan& plan, SignalInbox& inbox, std::optional<int>& interruption);

  /// Starts the processes and returns when all have ended. TORCHELASTIC_RESTART_COUNT is `restart`.
  /// Throws as ChildProcess does.
  RoundEnd run(int restart);

 private:
  struct Member {
    int rank = 0;
    std::optional<RankOutput> output;  // nothing: it has our own streams
    std::optional<ChildProcess> process;
    bool was_collected = false;
  };
  enum class Phase { kRunning, kJudging, kEnding, kKilling };
  using Clock = std::chrono::steady_clock;

  void start(int restart);
  void start_member(int local_rank, std::vector<std::string> environment);
  bool is_over();
  bool all_have_ended();
  void wait_for_news();
  void relay_output();
  void on_signal(int signal);
  void stop_and_go_on();
  void collect_ends();
  bool is_failure(const ProcessEnd& end) const;
  void advance();
  std::chrono::milliseconds moment() const;
  void enter(Phase phase, std::chrono::milliseconds limit);
  void signal_all(int signal);
  RankEnd cause() const;
  bool say_mistakes();
  int quiet_exit_code();
  RoundEnd round_end();

  const LaunchPlan& plan_;
  SignalInbox& inbox_;
  std::optional<int>& interruption_;
  std::deque<Member> members_;
  std::vector<RankEnd> failures_;  // in the order in which they were seen
  Phase phase_ = Phase::kRunning;
  Clock::time_point begin_, deadline_;
};

}  // namespace halftone::cli
