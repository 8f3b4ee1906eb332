// SPDX-License-Identifier: Apache-2.0
// The control groups (cgroups) that limit this process.
#pragma once

#include <filesystem>
#include <string_view>

#include "halftone/system/system_text_impl.h"

namespace halftone {

/// Calls `visit(folder, is_first_version)` for each group of `controller` that the process is in,
/// and for those around it. `root` is where Linux mounts them, `groups` the text of
/// /proc/self/cgroup: "0::/path" is the hierarchy of version 2, "4:cpu,cpuacct:/path" one of
/// version 1.
template <class Visit>
void for_each_control_group(const std::filesystem::path& root, std::string_view groups,
                            std::string_view controller, Visit visit) {
  for_each_entry(groups, [&](std::string_view hierarchy, std::string_view rest) {
    const std::size_t colon = rest.find(':');
    if (colon == rest.npos) return;
    const std::string_view controllers = rest.substr(0, colon);
    const bool is_second = hierarchy == "0" && controllers.empty();
    const bool is_first = controllers.substr(0, controllers.find(',')) == controller;
    if (!is_second && !is_first) return;
    const std::filesystem::path top = is_first ? root / controller : root;
    std::filesystem::path below(rest.substr(colon + 1));
    for (below = below.relative_path();; below = below.parent_path()) {
      visit(top / below, is_first);
      if (below.empty()) break;
    }
  });
}

}  // namespace halftone
