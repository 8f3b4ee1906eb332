// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/machine.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <system_error>

#include "halftone/machine/control_groups_impl.h"
#include "halftone/system/system_text_impl.h"

namespace halftone {
namespace {

std::uint64_t kibibytes(std::string_view value) {
  std::uint64_t count = 0;
  std::from_chars(value.data(), value.data() + value.size(), count);
  return count * 1024;
}

/// "max" and whatever is no number limit nothing.
std::uint64_t limit_in(std::string_view text) {
  std::uint64_t bytes = std::numeric_limits<std::uint64_t>::max();
  std::from_chars(text.data(), text.data() + text.size(), bytes);
  return bytes;
}

}  // namespace

SystemMemory parse_memory(std::string_view meminfo) {
  SystemMemory memory;
  for_each_entry(meminfo, [&](std::string_view key, std::string_view value) {
    if (key == "MemTotal") memory.total_bytes = kibibytes(value);
    if (key == "MemAvailable") memory.available_bytes = kibibytes(value);
  });
  return memory;
}

SystemMemory system_memory() { return parse_memory(system_text("/proc/meminfo")); }

std::uint64_t memory_limit(const std::filesystem::path& root) {
  std::uint64_t limit = std::numeric_limits<std::uint64_t>::max();
  for_each_control_group(root, system_text("/proc/self/cgroup"), "memory",
                         [&](const std::filesystem::path& group, bool is_first_version) {
                           const char* const file =
                               is_first_version ? "memory.limit_in_bytes" : "memory.max";
                           limit = std::min(limit, limit_in(system_text(group / file)));
                         });
  return limit;
}

std::uint64_t free_disk_bytes(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::path nearest = std::filesystem::absolute(folder, error);
  while (!std::filesystem::exists(nearest, error) && nearest.has_relative_path())
    nearest = nearest.parent_path();
  const std::filesystem::space_info space = std::filesystem::space(nearest, error);
  return error ? 0 : space.available;
}

}  // namespace halftone
