// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <thread>

#include "halftone/dist/sigpipe_block_impl.h"

namespace halftone::sigpipe_block_test {
namespace {

int write_to_nobody() {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  close(ends[0]);
  const int error = write(ends[1], "x", 1) < 0 ? errno : 0;
  close(ends[1]);
  return error;
}

TEST(SigpipeBlock, TurnsTheSignalIntoAnError) {
  signal(SIGPIPE, SIG_DFL);
  {
    const SigpipeBlock block;
    EXPECT_EQ(write_to_nobody(), EPIPE);
    int error = 0;
    std::thread([&] { error = write_to_nobody(); }).join();
    EXPECT_EQ(error, EPIPE);
  }
  sigset_t pending;
  sigpending(&pending);
  EXPECT_EQ(sigismember(&pending, SIGPIPE), 0);
}

TEST(SigpipeBlock, LeavesTheSignalToTheProgram) {
  signal(SIGPIPE, SIG_DFL);
  const auto write_after = [] {
    { const SigpipeBlock block; }
    write_to_nobody();
    std::exit(0);
  };
  EXPECT_EXIT(write_after(), testing::KilledBySignal(SIGPIPE), "");
}

}  // namespace
}  // namespace halftone::sigpipe_block_test
