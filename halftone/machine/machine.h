// SPDX-License-Identifier: Apache-2.0
// A machine's memory and disk, as far as training cares.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

namespace halftone {

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
