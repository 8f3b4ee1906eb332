// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace halftone {

/// The prompts of a file: its lines, or, of a .jsonl file, the "prompt" of the object on each line.
/// Blank lines are left out. Throws UserError that names file and line: what is not UTF-8, a line
/// of more than 1 MiB, no object with a text "prompt", or a file without any.
std::vector<std::string> read_prompts(const std::filesystem::path& path);

}  // namespace halftone
