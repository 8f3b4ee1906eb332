// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/cpu_features.h"

#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <string>

namespace halftone {

CpuFeatures parse_cpu_features(std::string_view cpuinfo) {
  constexpr std::string_view kKey = "\nflags";
  // Every core has a line of its own; they agree. The first may open the text.
  const std::string text = "\n" + std::string(cpuinfo);
  const std::size_t key = text.find(kKey);
  if (key == std::string::npos) return {};
  const std::size_t end = text.find('\n', key + kKey.size());
  std::istringstream line(text.substr(key, end - key));
  const std::set<std::string> flags{std::istream_iterator<std::string>(line), {}};
  return {.avx512_bf16 = flags.contains("avx512_bf16"),
          .avx512_fp16 = flags.contains("avx512_fp16"),
          .amx_bf16 = flags.contains("amx_bf16"),
          .amx_fp16 = flags.contains("amx_fp16")};
}

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = [] {
    std::ifstream file("/proc/cpuinfo");
    return parse_cpu_features(std::string(std::istreambuf_iterator<char>(file), {}));
  }();
  return features;
}

}  // namespace halftone
