// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/paths.h"

#include <cstdlib>

namespace halftone {
namespace {

// The XDG specification has relative paths ignored.
std::filesystem::path absolute_variable(const char* name) {
  const char* value = std::getenv(name);
  const std::filesystem::path path = value == nullptr ? "" : value;
  return path.is_absolute() ? path : std::filesystem::path();
}

}  // namespace

std::filesystem::path cache_folder() {
  if (const auto cache = absolute_variable("XDG_CACHE_HOME"); !cache.empty())
    return cache / "halftone";
  if (const auto home = absolute_variable("HOME"); !home.empty())
    return home / ".cache" / "halftone";
  return std::filesystem::temp_directory_path() / "halftone";
}

}  // namespace halftone
