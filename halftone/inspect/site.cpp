// SPDX-License-Identifier: Apache-2.0
#include "halftone/inspect/site.h"

#include <fmt/format.h>

#include <cstddef>

namespace halftone {

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
