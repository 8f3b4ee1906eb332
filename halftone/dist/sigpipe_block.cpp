// SPDX-License-Identifier: Apache-2.0
#include <ctime>

#include "halftone/dist/sigpipe_block_impl.h"

namespace halftone {
namespace {

sigset_t sigpipe_alone() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGPIPE);
  return set;
}

bool sigpipe_is_pending() {
  sigset_t pending;
  return sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE) == 1;
}

}  // namespace

SigpipeBlock::SigpipeBlock() : was_pending_(sigpipe_is_pending()) {
  const sigset_t set = sigpipe_alone();
  pthread_sigmask(SIG_BLOCK, &set, &before_);
}

SigpipeBlock::~SigpipeBlock() {
  const sigset_t set = sigpipe_alone();
  const timespec now{};
  // The signal of a write within is taken away; another's is left.
  if (!was_pending_ && sigpipe_is_pending()) sigtimedwait(&set, nullptr, &now);
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

}  // namespace halftone
