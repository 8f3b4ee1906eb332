// SPDX-License-Identifier: Apache-2.0
// How this machine and this process are set up, as far as that can make training slow. Facts only:
// machine/findings.h judges them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace halftone {

struct MachineSettings {
  /// Of the variables that this knows, those that are set.
  std::map<std::string, std::string> environment;
  std::int64_t allowed_cpus = 0;  ///< that the process may run on (its affinity); 0: not known
  double cpu_quota = 0;           ///< CPUs' worth of time of its control groups; 0: no limit
  std::string governor;           ///< of the first processor's frequency; empty: not readable
  std::string large_pages;        ///< "always", "madvise", "never"; empty: not readable
  bool amx_is_granted = true;  ///< where the processor has AMX: whether the kernel lets it be used
  std::string libtorch_capability;  ///< "AVX512": what LibTorch's kernels are dispatched to
  std::string
      fp32_matmul;  ///< "ieee", or what LibTorch may compute fp32 matmuls in: "bf16", "tf32"
};

/// Of this machine and process, now.
MachineSettings machine_settings();

/// CPUs that this process and its children keep busy at most: of the two limits the tighter, 1 or
/// more.
std::int64_t usable_cpus(const MachineSettings& settings);

/// CPUs' worth of time that this process's control groups allow it; 0 where nothing limits it.
/// `root` is where Linux mounts them, `groups` the text of /proc/self/cgroup.
double cpu_quota_in(const std::filesystem::path& root, std::string_view groups);

/// The word in brackets: "madvise" of "always [madvise] never". Empty where there is none.
std::string chosen_word(std::string_view text);

}  // namespace halftone
