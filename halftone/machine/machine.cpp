// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/machine.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <system_error>

#include "halftone/system/processor.h"

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

std::string text_of(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
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

SystemMemory system_memory() { return parse_memory(text_of("/proc/meminfo")); }

std::uint64_t memory_limit(const std::filesystem::path& root) {
  std::uint64_t limit = std::numeric_limits<std::uint64_t>::max();
  for_each_entry(text_of("/proc/self/cgroup"),
                 [&](std::string_view hierarchy, std::string_view rest) {
                   // "0::/path" is the hierarchy of version 2, "4:memory:/path" that of version 1.
                   const bool second = hierarchy == "0" && rest.starts_with(':');
                   const bool first = rest.starts_with("memory:");
                   if (!second && !first) return;
                   const std::filesystem::path top = first ? root / "memory" : root;
                   std::filesystem::path below = rest.substr(rest.find(':') + 1);
                   for (below = below.relative_path();; below = below.parent_path()) {
                     const std::filesystem::path file =
                         top / below / (first ? "memory.limit_in_bytes" : "memory.max");
                     limit = std::min(limit, limit_in(text_of(file.c_str())));
                     if (below.empty()) break;
                   }
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
