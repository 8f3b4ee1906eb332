// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/machine.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <iterator>
#include <limits>
#include <set>
#include <sstream>
#include <system_error>
#include <utility>

namespace halftone {
namespace {

/// Linux's flag and the name that people know.
constexpr std::array<std::pair<std::string_view, const char*>, 14> kInstructionSets{
    {{"avx2", "AVX2"},
     {"fma", "FMA"},
     {"f16c", "F16C"},
     {"avx512f", "AVX-512"},
     {"avx512_vnni", "AVX512_VNNI"},
     {"avx_vnni", "AVX_VNNI"},
     {"avx512_bf16", "AVX512_BF16"},
     {"avx512_fp16", "AVX512_FP16"},
     {"amx_bf16", "AMX_BF16"},
     {"amx_int8", "AMX_INT8"},
     {"amx_fp16", "AMX_FP16"},
     {"asimd", "NEON"},
     {"bf16", "NEON_BF16"},
     {"i8mm", "NEON_I8MM"}}};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r";
  const std::size_t first = text.find_first_not_of(kBlank);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

/// Calls `visit(key, value)` for each line "key : value".
template <class Visit>
void for_each_entry(std::string_view text, Visit visit) {
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    const std::size_t colon = line.find(':');
    if (colon != line.npos) visit(trimmed(line.substr(0, colon)), trimmed(line.substr(colon + 1)));
  }
}

std::vector<std::string> known_sets(std::string_view flags) {
  std::istringstream words{std::string(flags)};
  const std::set<std::string, std::less<>> present{std::istream_iterator<std::string>(words), {}};
  std::vector<std::string> names;
  for (const auto& [flag, name] : kInstructionSets)
    if (present.contains(flag)) names.emplace_back(name);
  return names;
}

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

Processor parse_processor(std::string_view cpuinfo) {
  Processor processor;
  std::set<std::pair<std::string_view, std::string_view>> cores;
  std::string_view package;
  for_each_entry(cpuinfo, [&](std::string_view key, std::string_view value) {
    if (key == "processor") ++processor.threads;
    if (key == "model name" && processor.name.empty()) processor.name = value;
    if (key == "physical id") package = value;
    if (key == "core id") cores.insert({package, value});
    if ((key == "flags" || key == "Features") && processor.instruction_sets.empty())
      processor.instruction_sets = known_sets(value);
  });
  // Arm names no cores; none of its server processors has more threads than cores.
  processor.cores = cores.empty() ? processor.threads : std::ssize(cores);
  return processor;
}

Processor this_processor() { return parse_processor(text_of("/proc/cpuinfo")); }

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
