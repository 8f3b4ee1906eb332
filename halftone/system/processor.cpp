// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/processor.h"

#include <fmt/format.h>
#include <sys/auxv.h>

#include <array>
#include <charconv>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <set>
#include <sstream>
#include <utility>

#include "halftone/system/system_text_impl.h"

namespace halftone {
namespace {

/// Linux's flag and the name that people know.
constexpr std::array<std::pair<std::string_view, const char*>, 18> kInstructionSets{
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
     {"asimdhp", "NEON_FP16"},
     {"asimddp", "NEON_DOTPROD"},
     {"bf16", "NEON_BF16"},
     {"i8mm", "NEON_I8MM"},
     {"sve", "SVE"},
     {"sve2", "SVE2"}}};

/// Bits of Arm's AT_HWCAP and AT_HWCAP2, and the flags that they stand for.
using BitNames = std::initializer_list<std::pair<unsigned, const char*>>;
constexpr BitNames kHwcap{{1, "asimd"}, {10, "asimdhp"}, {20, "asimddp"}, {22, "sve"}};
constexpr BitNames kHwcap2{{1, "sve2"}, {13, "i8mm"}, {14, "bf16"}};

using Flags = std::set<std::string, std::less<>>;

Flags words_of(std::string_view text) {
  std::istringstream words{std::string(text)};
  return {std::istream_iterator<std::string>(words), {}};
}

std::vector<std::string> known_sets(const Flags& flags) {
  std::vector<std::string> names;
  for (const auto& [flag, name] : kInstructionSets)
    if (flags.contains(flag)) names.emplace_back(name);
  return names;
}

CpuFeatures x86_features(const Flags& flags) {
  return {.avx512_bf16 = flags.contains("avx512_bf16"),
          .avx512_fp16 = flags.contains("avx512_fp16"),
          .amx_bf16 = flags.contains("amx_bf16"),
          .amx_fp16 = flags.contains("amx_fp16")};
}

CpuFeatures arm_features(const Flags& flags) {
  return {.neon_bf16 = flags.contains("bf16"), .neon_fp16 = flags.contains("asimdhp")};
}

int number_of(std::string_view text) {
  int number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

bool is_in_signature(std::string_view key) {
  return key == "model name" || key == "cpu family" || key == "model" || key == "stepping";
}

}  // namespace

Processor parse_processor(std::string_view cpuinfo) {
  Processor processor;
  std::set<std::pair<std::string_view, std::string_view>> cores;
  std::string_view package;
  for_each_entry(cpuinfo, [&](std::string_view key, std::string_view value) {
    if (key == "processor") ++processor.threads;
    if (key == "model name" && processor.name.empty()) processor.name = value;
    if (key == "vendor_id" && processor.model.vendor.empty()) processor.model.vendor = value;
    if (key == "cpu family" && processor.model.family == 0)
      processor.model.family = number_of(value);
    if (key == "model" && processor.model.model == 0) processor.model.model = number_of(value);
    if (key == "physical id") package = value;
    if (key == "core id") cores.insert({package, value});
    if (processor.threads <= 1 && is_in_signature(key))
      processor.signature += fmt::format(" {}", value);
    if ((key == "flags" || key == "Features") && processor.instruction_sets.empty()) {
      const Flags flags = words_of(value);
      processor.instruction_sets = known_sets(flags);
      processor.features = key == "flags" ? x86_features(flags) : arm_features(flags);
      processor.is_virtual = flags.contains("hypervisor");
      processor.signature += fmt::format(" flags {:x}", std::hash<std::string_view>{}(value));
    }
  });
  // Arm names no cores; none of its server processors has more threads than cores.
  processor.cores = cores.empty() ? processor.threads : std::ssize(cores);
  return processor;
}

Processor with_arm_features(Processor processor, std::uint64_t hwcap, std::uint64_t hwcap2) {
  Flags flags;
  for (const auto& [bit, flag] : kHwcap)
    if ((hwcap >> bit & 1U) != 0) flags.insert(flag);
  for (const auto& [bit, flag] : kHwcap2)
    if ((hwcap2 >> bit & 1U) != 0) flags.insert(flag);
  processor.instruction_sets = known_sets(flags);
  processor.features = arm_features(flags);
  processor.model = {};
  processor.signature += fmt::format(" arm {:x} {:x}", hwcap, hwcap2);
  return processor;
}

const Processor& this_processor() {
#if defined(__aarch64__)
  static const Processor processor = with_arm_features(
      parse_processor(system_text("/proc/cpuinfo")), ::getauxval(AT_HWCAP), ::getauxval(AT_HWCAP2));
#else
  static const Processor processor = parse_processor(system_text("/proc/cpuinfo"));
#endif
  return processor;
}

}  // namespace halftone
