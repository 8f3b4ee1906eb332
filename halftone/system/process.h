// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace halftone {

struct ProcessResult {
  /// 127 when there is no such program, 128 + N when signal N ended it.
  int exit_code = 0;
  std::string output;  // stdout and stderr, as they came
  bool not_found() const { return exit_code == 127; }
};

/// Runs a program without a shell (`argv[0]` is looked up in PATH) in `folder`, with the messages
/// of the C locale, and waits for it. Throws SystemError when no process can be started.
/// REQUIRES that argv is not empty.
ProcessResult run_process(const std::vector<std::string>& argv,
                          const std::filesystem::path& folder = ".");

}  // namespace halftone
