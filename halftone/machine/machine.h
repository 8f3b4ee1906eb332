// SPDX-License-Identifier: Apache-2.0
// What a machine is made of, as far as training cares.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace halftone {

struct Processor {
  std::string name;          ///< "AMD EPYC"; empty where the system does not say
  std::int64_t cores = 0;    ///< physical ones
  std::int64_t threads = 0;  ///< of the hardware: more than cores with simultaneous threads
  /// Those that matter to training, in the order of their age: "AVX2", "AVX512_BF16", "NEON".
  std::vector<std::string> instruction_sets;
};

/// From the text of Linux's /proc/cpuinfo, x86-64's or Arm's.
Processor parse_processor(std::string_view cpuinfo);
/// This machine's.
Processor this_processor();

struct SystemMemory {
  std::uint64_t total_bytes = 0;
  std::uint64_t available_bytes = 0;  ///< for new work, without swapping
};

/// From the text of Linux's /proc/meminfo; what it does not say is 0.
SystemMemory parse_memory(std::string_view meminfo);
SystemMemory system_memory();

/// The most that this process's control groups (a container, a service) allow it; the largest
/// number where nothing limits it. `root` is where Linux mounts them.
std::uint64_t memory_limit(const std::filesystem::path& root = "/sys/fs/cgroup");

/// Bytes that this user may still write below `folder`, which need not exist yet; 0 where the
/// system does not say.
std::uint64_t free_disk_bytes(const std::filesystem::path& folder);

}  // namespace halftone
