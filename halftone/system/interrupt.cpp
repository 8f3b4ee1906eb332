// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/interrupt.h"

#include <csignal>

namespace halftone {
namespace {

volatile std::sig_atomic_t signal_came = 0;

// SA_RESETHAND: the second signal of a kind finds the default action, which ends the process.
void on_signal(int) { signal_came = 1; }

struct sigaction previous_int;
struct sigaction previous_term;

}  // namespace

InterruptGuard::InterruptGuard() {
  signal_came = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &previous_int);
  sigaction(SIGTERM, &action, &previous_term);
}

InterruptGuard::~InterruptGuard() {
  sigaction(SIGINT, &previous_int, nullptr);
  sigaction(SIGTERM, &previous_term, nullptr);
}

bool interrupted() { return signal_came != 0; }

}  // namespace halftone
