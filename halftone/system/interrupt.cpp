// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/interrupt.h"

#include <array>
#include <csignal>

namespace halftone {
namespace {

volatile std::sig_atomic_t first_signal = 0;

void on_signal(int signal) {
  if (first_signal == 0) first_signal = signal;
}

struct WatchedSignal {
  int number;
  // A second signal then finds the default action, which ends the process. Not SIGHUP: the terminal
  // and the shell in it both send one.
  bool second_ends_process;
  struct sigaction previous {};
  bool taken = false;
};

std::array<WatchedSignal, 3> watched_signals = {{{SIGINT, true}, {SIGTERM, true}, {SIGHUP, false}}};
int living_guards = 0;

bool is_the_programs_own(const WatchedSignal& signal, const struct sigaction& action) {
  if ((action.sa_flags & SA_SIGINFO) != 0) return true;
  if (action.sa_handler == SIG_IGN) return signal.number == SIGHUP;
  return action.sa_handler != SIG_DFL;
}

void take_over(WatchedSignal& signal) {
  sigaction(signal.number, nullptr, &signal.previous);
  signal.taken = !is_the_programs_own(signal, signal.previous);
  if (!signal.taken) return;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  if (signal.second_ends_process) action.sa_flags |= static_cast<int>(SA_RESETHAND);
  sigemptyset(&action.sa_mask);
  sigaction(signal.number, &action, nullptr);
}

void give_back(WatchedSignal& signal) {
  if (signal.taken) sigaction(signal.number, &signal.previous, nullptr);
  signal.taken = false;
}

}  // namespace

InterruptGuard::InterruptGuard() {
  if (living_guards++ > 0) return;
  first_signal = 0;
  for (WatchedSignal& signal : watched_signals) take_over(signal);
}

InterruptGuard::~InterruptGuard() {
  if (--living_guards > 0) return;
  for (WatchedSignal& signal : watched_signals) give_back(signal);
}

bool interrupted() { return first_signal != 0; }

std::optional<int> interrupting_signal() {
  const int signal = first_signal;
  return signal == 0 ? std::nullopt : std::optional(signal);
}

}  // namespace halftone
