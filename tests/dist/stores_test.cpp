// SPDX-License-Identifier: Apache-2.0
// Where the processes meet: in a store of theirs, again and again, or in one of their launcher's.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <csignal>
#include <cstdio>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "halftone/dist/join_process_group.h"
#include "support/processes.h"

namespace halftone::stores_test {
namespace {

const ProcessGroupOptions kOptions{.heartbeat = std::chrono::milliseconds(200)};

void exchange(ProcessGroup& group) {
  torch::Tensor all = torch::zeros({group.size(), 5});
  group.all_gather(all, torch::full({5}, 1. * group.rank()))->wait();
  EXPECT_EQ(all.sum().item<double>(), 5. * group.size() * (group.size() - 1) / 2);
}

// A launcher that keeps the store, as torchrun's agent does.
class Launcher {
 public:
  Launcher() : store_(c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options())) {}
  test::ProcessesOptions processes(int count, const std::string& attempt = "0") const {
    return {.count = count,
            .environment = {{"MASTER_PORT", std::to_string(store_->getPort())},
                            {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                            {"TORCHELASTIC_RESTART_COUNT", attempt}}};
  }
  void end() { store_.reset(); }
  std::string port() const { return std::to_string(store_->getPort()); }

 private:
  static c10d::TCPStoreOptions options() {
    c10d::TCPStoreOptions options;
    options.port = 0;
    options.isServer = true;
    options.waitWorkers = false;
    return options;
  }
  c10::intrusive_ptr<c10d::TCPStore> store_;
};

void exchange_for_ever() {
  const auto group = join_process_group(find_process_place(), kOptions);
  exchange(*group);
  std::puts("joined");
  std::fflush(stdout);
  while (true) exchange(*group);
}

TEST(Stores, LetProcessesJoinAgain) {
  test::in_processes(3, [] {
    for (int i = 0; i < 3; ++i) {
      const auto group = join_process_group(find_process_place(), kOptions);
      exchange(*group);
    }
  });
}

TEST(Stores, OfALauncherOutliveProcessZero) {
  Launcher launcher;
  test::Processes processes(launcher.processes(3), exchange_for_ever);
  for (int rank = 0; rank < 3; ++rank) processes.wait_for_output(rank, "joined");
  processes.signal(0, SIGKILL);
  const std::vector<test::Ended> ended = processes.wait();
  for (const int rank : {1, 2})
    EXPECT_EQ(ended[rank].error(), "process 0 of 3 has ended") << ended[rank].output;
}

TEST(Stores, OfALauncherEndWithIt) {
  Launcher launcher;
  test::Processes processes(launcher.processes(2), exchange_for_ever);
  for (int rank = 0; rank < 2; ++rank) processes.wait_for_output(rank, "joined");
  const std::string port = launcher.port();
  launcher.end();
  for (const test::Ended& ended : processes.wait())
    EXPECT_EQ(ended.error(),
              "torchrun has ended, which kept the store of all processes at 127.0.0.1 port " + port)
        << ended.output;
}

}  // namespace
}  // namespace halftone::stores_test
