// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cctype>
#include <cstddef>

#include "halftone/diagnostics/profile/module_ranges_impl.h"

namespace halftone {

std::vector<std::string> module_levels(const std::string& path) {
  std::vector<std::string> levels;
  for (std::size_t end = 0; end < path.size();) {
    end = std::min(path.find('.', end + (end > 0 ? 1 : 0)), path.size());
    const bool before_number =
        end + 1 < path.size() && std::isdigit(static_cast<unsigned char>(path[end + 1])) != 0;
    if (!before_number) levels.push_back(path.substr(0, end));
  }
  return levels;
}

void ModuleRanges::enter(const std::vector<std::string>& levels) {
  thread_local std::vector<std::string> open;
  const auto [kept, wanted] = std::mismatch(open.begin(), open.end(), levels.begin(), levels.end());
  const auto same = static_cast<std::size_t>(kept - open.begin());
  while (open.size() > same) {
    pop();
    open.pop_back();
  }
  for (std::size_t i = same; i < levels.size(); ++i) {
    push(levels[i]);
    open.push_back(levels[i]);
  }
}

}  // namespace halftone
