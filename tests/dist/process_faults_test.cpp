// SPDX-License-Identifier: Apache-2.0
// What the others say when a process goes or stands still: the same line in all of them, with its
// rank.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include "halftone/core/error.h"
#include "halftone/core/message.h"
#include "halftone/dist/join_process_group.h"
#include "support/message_of.h"
#include "support/processes.h"

namespace halftone::process_faults_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

const ProcessGroupOptions kPatient{.silence_timeout = seconds(60), .heartbeat = milliseconds(200)};
const ProcessGroupOptions kHasty{.silence_timeout = seconds(4), .heartbeat = milliseconds(200)};

void say(const char* word) {
  std::puts(word);
  std::fflush(stdout);
}

void exchange(ProcessGroup& group) {
  torch::Tensor all = torch::zeros({group.size(), 1000});
  group.all_gather(all, torch::full({1000}, 1. * group.rank()))->wait();
}

// Operations until one fails.
void exchange_for_ever(const ProcessGroupOptions& options) {
  const auto group = join_process_group(find_process_place(), options);
  exchange(*group);
  say("joined");
  while (true) exchange(*group);
}

void expect_all_say(const std::vector<test::Ended>& ended, int left_out, const std::string& line) {
  for (int rank = 0; rank < static_cast<int>(ended.size()); ++rank) {
    if (rank == left_out) continue;
    EXPECT_EQ(ended[rank].exit_code, 1) << rank;
    EXPECT_EQ(ended[rank].error(), line) << rank << ":\n" << ended[rank].output;
  }
}

// The system may take seconds to load one program, and a fraction for another.
void wait_for_start_of_all(const ProcessPlace& place) {
  const auto file = [](std::int64_t rank) {
    return test::shared_folder() / ("started." + std::to_string(rank));
  };
  std::ofstream(file(place.rank)) << "here";
  for (std::int64_t rank = 0; rank < place.size; ++rank)
    while (!std::filesystem::exists(file(rank))) std::this_thread::sleep_for(milliseconds(5));
}

void expect_killed_is_named(int killed) {
  test::Processes processes({.count = 4}, [] { exchange_for_ever(kPatient); });
  for (int rank = 0; rank < 4; ++rank) processes.wait_for_output(rank, "joined");
  processes.signal(killed, SIGKILL);
  const std::vector<test::Ended> ended = processes.wait();
  EXPECT_EQ(ended[killed].exit_code, 128 + SIGKILL);
  expect_all_say(ended, killed, "process " + std::to_string(killed) + " of 4 has ended");
}

void expect_stopped_is_named(int stopped) {
  test::Processes processes({.count = 3}, [] { exchange_for_ever(kHasty); });
  for (int rank = 0; rank < 3; ++rank) processes.wait_for_output(rank, "joined");
  processes.signal(stopped, SIGSTOP);
  const std::vector<test::Ended> ended = processes.wait({stopped});
  expect_all_say(ended, stopped,
                 "process " + std::to_string(stopped) + " of 3 has not been heard of for 4 s");
}

void expect_error_is_named(bool reports) {
  test::Processes processes({.count = 4}, [reports] {
    const auto group = join_process_group(find_process_place(), kPatient);
    exchange(*group);
    if (group->rank() == 3) {
      const SystemError error("no space is left on\nthe disk");
      if (reports) group->report_error(error.what());
      throw error;
    }
    while (true) exchange(*group);
  });
  const std::vector<test::Ended> ended = processes.wait();
  expect_all_say(ended, 3,
                 std::string("process 3 of 4 ended with an error") +
                     (reports ? ": no space is left on the disk" : ""));
  EXPECT_EQ(ended[3].error(), "no space is left on");
}

TEST(ProcessFaults, NameAKilledProcess) { expect_killed_is_named(2); }
TEST(ProcessFaults, NameTheKilledServerOfTheStore) { expect_killed_is_named(0); }
TEST(ProcessFaults, NameAStoppedProcess) { expect_stopped_is_named(1); }
TEST(ProcessFaults, NameTheStoppedServerOfTheStore) { expect_stopped_is_named(0); }
TEST(ProcessFaults, NameAnErrorOfAProcess) { expect_error_is_named(true); }
TEST(ProcessFaults, NameAProcessThatAnExceptionEnds) { expect_error_is_named(false); }

TEST(ProcessFaults, NameAKilledProcessToThoseWhoWaitForAnother) {
  test::Processes processes({.count = 3}, [] {
    const auto group = join_process_group(find_process_place(), kPatient);
    say("joined");
    // Process 1 goes, and process 2 does not come: process 0 waits for the latter first.
    if (group->rank() > 0) std::this_thread::sleep_for(seconds(600));
    torch::Tensor tensor = torch::zeros({3});
    group->broadcast(tensor, 2)->wait();
  });
  for (int rank = 0; rank < 3; ++rank) processes.wait_for_output(rank, "joined");
  processes.signal(1, SIGKILL);
  const std::vector<test::Ended> ended = processes.wait({2});
  EXPECT_EQ(ended[0].error(), "process 1 of 3 has ended") << ended[0].output;
}

TEST(ProcessFaults, NameAProcessThatDoesNotCome) {
  test::Processes processes({.count = 3}, [] {
    const auto group = join_process_group(
        find_process_place(), {.operation_timeout = seconds(3), .heartbeat = milliseconds(200)});
    exchange(*group);
    if (group->rank() == 1) std::this_thread::sleep_for(seconds(600));
    exchange(*group);
  });
  const std::vector<test::Ended> ended = processes.wait({1});
  for (const int rank : {0, 2}) {
    EXPECT_EQ(ended[rank].exit_code, 1);
    EXPECT_THAT(
        ended[rank].error(),
        testing::MatchesRegex("process 1 of 3 lives, but has not come to the operation for which "
                              "process [02] has waited 3 s"));
  }
  EXPECT_EQ(ended[0].error(), ended[2].error());
}

// One thread waits in the group, another exchanges in the twin.
TEST(ProcessFaults, NameAProcessThatDoesNotComeToOneOfTwoGroups) {
  test::Processes processes({.count = 2}, [] {
    const auto group = join_process_group(
        find_process_place(), {.operation_timeout = seconds(3), .heartbeat = milliseconds(200)});
    const auto twin = group->twin();
    exchange(*group);
    const auto exchange_for_ever_in_twin = [&] {
      while (true) exchange(*twin);
    };
    std::thread other([&] { EXPECT_THROW(exchange_for_ever_in_twin(), ProcessGroupError); });
    std::string error;
    if (group->rank() == 0) error = test::message_of<ProcessGroupError>([&] { exchange(*group); });
    other.join();
    if (group->rank() == 0) throw ProcessGroupError(error);
  });
  const std::vector<test::Ended> ended = processes.wait();
  EXPECT_EQ(ended[0].error(),
            "process 1 of 2 lives, but has not come to the operation for which process 0 has "
            "waited 3 s")
      << ended[0].output;
  EXPECT_EQ(ended[1].exit_code, 0) << ended[1].output;
}

// The one that sees it leaves, and a busy machine may have the other see that first.
TEST(ProcessFaults, NameOperationsThatDiffer) {
  test::Processes processes({.count = 2}, [] {
    const auto group = join_process_group(find_process_place(), kPatient);
    exchange(*group);
    const std::int64_t columns = 10 + group->rank();
    torch::Tensor all = torch::zeros({2, columns});
    group->all_gather(all, torch::zeros({columns}))->wait();
  });
  const std::vector<test::Ended> ended = processes.wait();
  const std::string difference =
      "processes 0 and 1 of 2 differ in operation 2: all_gather of 40 bytes, and all_gather of 44 "
      "bytes";
  for (const std::size_t rank : {0U, 1U}) {
    EXPECT_EQ(ended[rank].exit_code, 1);
    EXPECT_THAT(ended[rank].error(),
                testing::AnyOf(testing::HasSubstr(difference),
                               testing::StartsWith("process " + std::to_string(1 - rank))));
  }
  EXPECT_THAT(ended[0].error() + ended[1].error(), testing::HasSubstr(difference));
}

TEST(ProcessFaults, LetProcessesLeaveOneAfterAnother) {
  test::in_processes(3, [] {
    const auto group = join_process_group(find_process_place(), kPatient);
    exchange(*group);
    std::this_thread::sleep_for(milliseconds(150 * group->rank()));
  });
}

TEST(ProcessFaults, NameAProcessThatHasLeftAndIsNeeded) {
  test::in_processes(2, [] {
    const auto group = join_process_group(find_process_place(), kPatient);
    exchange(*group);
    if (group->rank() == 0) return;
    for (int i = 0; i < 2; ++i)
      EXPECT_EQ(test::message_of<ProcessGroupError>([&] { exchange(*group); }),
                "process 0 of 2 has ended");
  });
}

TEST(ProcessFaults, LeaveOperationsThatNobodyWaitsFor) {
  test::in_processes(2, [] {
    torch::Tensor all = torch::zeros({2, 1'000'000});
    ProcessGroup::Pending pending;
    const auto group = join_process_group(find_process_place(), kPatient);
    exchange(*group);
    if (group->rank() == 0) pending = group->all_gather(all, torch::ones({1'000'000}));
  });
}

TEST(ProcessFaults, NameWhoHasNotComeToJoin) {
  test::Processes processes({.count = 3}, [] {
    const ProcessPlace place = find_process_place();
    wait_for_start_of_all(place);
    if (place.rank == 2) std::this_thread::sleep_for(seconds(600));
    join_process_group(place, {.join_timeout = seconds(2)});
  });
  const std::vector<test::Ended> ended = processes.wait({2});
  for (const int rank : {0, 1})
    EXPECT_THAT(ended[rank].error(), HasSubstr("process 2 of 3 has not come within 2 s"))
        << ended[rank].output;
}

TEST(ProcessFaults, NameAStoreThatIsNotThere) {
  ProcessPlace place{.rank = 1, .size = 2, .address = "127.0.0.1", .port = 9};
  EXPECT_THAT(test::message_of<ProcessGroupError>(
                  [&] { join_process_group(place, {.join_timeout = milliseconds(200)}); }),
              HasSubstr("process 1 of 2 could not reach process 0 at 127.0.0.1 port 9"));
  place.address = "no.such.host.invalid";
  EXPECT_THAT(test::message_of<ProcessGroupError>(
                  [&] { join_process_group(place, {.join_timeout = milliseconds(200)}); }),
              HasSubstr("no.such.host.invalid"));
}

TEST(ProcessFaults, NameAPortThatIsTaken) {
  test::in_processes(2, [] {
    ProcessPlace place = find_process_place();
    const auto group = join_process_group(place);
    if (place.rank == 0) {
      EXPECT_THAT(test::message_of<UserError>([&] { join_process_group(place); }),
                  HasSubstr("give MASTER_PORT a port that is free"));
    }
    exchange(*group);
  });
}

}  // namespace
}  // namespace halftone::process_faults_test
