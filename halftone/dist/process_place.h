// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace halftone {

/// Which of how many processes this is, and where all of them meet.
struct ProcessPlace {
  std::int64_t rank = 0;        ///< 0 to size - 1
  std::int64_t size = 1;        ///< processes that train together
  std::int64_t local_rank = 0;  ///< among the processes of this host
  std::int64_t local_size = 1;  ///< processes of this host
  std::string launcher;  ///< who started them: "torchrun", "Open MPI", "Slurm"; empty if alone

  std::string address;       ///< host of the store through which they find each other
  std::uint16_t port = 0;    ///< its port
  bool own_store = true;     ///< process 0 serves the store, and not the launcher
  std::int64_t attempt = 0;  ///< how often the launcher has started all of them again

  bool is_alone() const { return size == 1; }
  /// All processes are known to be on one host.
  bool on_one_host() const;
};

/// What goes before the environment's word.
struct ProcessPlaceOptions {
  std::string address;                ///< instead of MASTER_ADDR
  std::optional<std::uint16_t> port;  ///< instead of MASTER_PORT
};

/// The value of a variable, or nothing where it is not set.
using Environment = std::function<std::optional<std::string>(const std::string& name)>;
/// The environment of this process.
Environment process_environment();

/// Reads the variables that torchrun sets (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
/// MASTER_ADDR, MASTER_PORT), else Open MPI's, else those of a step that Slurm's srun started. None
/// of them set: a single process. Throws UserError, which names the variable, where they are
/// malformed, contradict each other, or one is missing.
ProcessPlace find_process_place(const ProcessPlaceOptions& options = {},
                                const Environment& environment = process_environment());

}  // namespace halftone
