// SPDX-License-Identifier: Apache-2.0
#include "halftone/inspect/site.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstddef>

namespace halftone {

std::string without_places(const std::string& path) {
  std::string merged;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    const bool is_number =
        !part.empty() &&
        std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
    if (begin > 0) merged += '.';
    merged += is_number ? "*" : part;
    begin = end + 1;
  }
  return merged;
}

std::string quoted_list(const std::vector<std::string>& names) {
  constexpr std::size_t kMost = 4;
  const std::size_t shown = names.size() > kMost ? kMost - 1 : names.size();
  std::string text;
  for (std::size_t i = 0; i < shown; ++i) {
    const bool last = i + 1 == names.size();
    text += fmt::format("{}'{}'", i == 0 ? "" : last ? " and " : ", ", names[i]);
  }
  return shown == names.size() ? text : text + fmt::format(" and {} more", names.size() - shown);
}

std::string to_string(const Site& site) {
  std::string text = site.operation;
  if (!site.node.empty()) text += " in " + site.node;
  if (!site.forward.empty())
    text += (site.node.empty() ? " in the backward pass of " : ", the backward pass of ") +
            site.forward;
  if (!site.within.empty()) text += " in " + site.within;
  if (!site.parameters.empty())
    text += (site.reads_parameter ? " with " : ", after ") + quoted_list(site.parameters);
  return text;
}

}  // namespace halftone
