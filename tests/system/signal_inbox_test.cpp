// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/signal_inbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include "halftone/core/error.h"

namespace halftone::signal_inbox_test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

bool has_news(const SignalInbox& inbox) {
  pollfd descriptor{.fd = inbox.descriptor(), .events = POLLIN, .revents = 0};
  return poll(&descriptor, 1, 0) == 1;
}

TEST(SignalInbox, KeepsSignalsInTheirOrder) {
  SignalInbox inbox({SIGUSR1, SIGUSR2, SIGTERM});
  EXPECT_FALSE(has_news(inbox));
  EXPECT_THAT(inbox.take(), IsEmpty());
  std::raise(SIGTERM);
  std::raise(SIGUSR2);
  std::raise(SIGTERM);
  EXPECT_TRUE(has_news(inbox));
  EXPECT_THAT(inbox.take(), ElementsAre(SIGTERM, SIGUSR2, SIGTERM));
  EXPECT_FALSE(has_news(inbox));
}

TEST(SignalInbox, LeavesWhatIsIgnoredButInterrupts) {
  const auto hang_up = std::signal(SIGHUP, SIG_IGN);
  const auto interrupt = std::signal(SIGINT, SIG_IGN);
  {
    SignalInbox inbox({SIGHUP, SIGINT});
    std::raise(SIGHUP);
    std::raise(SIGINT);
    EXPECT_THAT(inbox.take(), ElementsAre(SIGINT));
  }
  EXPECT_EQ(std::signal(SIGINT, interrupt), SIG_IGN) << "put back";
  EXPECT_EQ(std::signal(SIGHUP, hang_up), SIG_IGN);
}

TEST(SignalInbox, IsOneAtATime) {
  { const SignalInbox first({SIGUSR1}); }
  const SignalInbox second({SIGUSR1});
  EXPECT_THROW(SignalInbox({SIGUSR2}), c10::Error);
}

}  // namespace
}  // namespace halftone::signal_inbox_test
