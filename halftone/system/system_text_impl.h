// SPDX-License-Identifier: Apache-2.0
// What Linux tells in text files below /proc and /sys.
#pragma once

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

namespace halftone {

/// All of a file whose size the system does not know before it is read; empty where it can't be.
inline std::string system_text(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Calls `visit(key, value)` for each line "key : value" of such a text.
template <class Visit>
void for_each_entry(std::string_view text, Visit visit) {
  const auto trimmed = [](std::string_view word) {
    constexpr std::string_view kBlank = " \t\r";
    const std::size_t first = word.find_first_not_of(kBlank);
    if (first == word.npos) return std::string_view();
    return word.substr(first, word.find_last_not_of(kBlank) - first + 1);
  };
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(line.size() < text.size() ? line.size() + 1 : line.size());
    const std::size_t colon = line.find(':');
    if (colon != line.npos) visit(trimmed(line.substr(0, colon)), trimmed(line.substr(colon + 1)));
  }
}

}  // namespace halftone
