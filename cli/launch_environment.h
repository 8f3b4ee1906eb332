// SPDX-License-Identifier: Apache-2.0
// What a launch starts, and the variables by which its processes find each other: torchrun's.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace halftone::cli {

struct LaunchPlan {
  std::vector<std::string> argv;
  bool is_halftone = true;  // argv is a command of ours, whose errors we know
  int processes = 1;        // on this node
  int nodes = 1;
  int node_rank = 0;
  std::string master_addr;
  int master_port = 0;  // 0: a free one
  int threads = 0;      // of each process; 0: the environment says it
  int timeout_s = 0;    // for one that lives and does not come; 0: likewise

  int first_rank() const { return node_rank * processes; }
  int world_size() const { return nodes * processes; }
};

/// The variables of one start of all processes. A port that is free is looked for once.
class LaunchEnvironment {
 public:
  using Variables = std::vector<std::pair<std::string, std::string>>;

  /// TORCHELASTIC_RESTART_COUNT is `restart`. Throws SystemError where no port is free.
  LaunchEnvironment(const LaunchPlan& plan, int restart);
  /// "NAME=value": this process's environment with those of a process of this node.
  std::vector<std::string> of(int local_rank) const;

 private:
  Variables shared_;
  int first_rank_;
};

}  // namespace halftone::cli
