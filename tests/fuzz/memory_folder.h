// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>

#include "fuzz_check.h"

namespace halftone::test {

/// A folder in memory, for writers that take a path; gone with the process.
inline const std::filesystem::path& memory_folder() {
  struct Folder {
    std::string name = "/dev/shm/halftone-fuzz-XXXXXX";
    std::filesystem::path path;
    Folder() {
      require(mkdtemp(name.data()) != nullptr, "there is a folder to write to");
      path = name;
    }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  };
  static const Folder folder;
  return folder.path;
}

}  // namespace halftone::test
