// SPDX-License-Identifier: Apache-2.0
// Files of lines, each of which is a value of its own. The file may be a stranger's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "halftone/system/json_reader_impl.h"

namespace halftone {

/// Calls `read` for each line of `path` that is not blank, without its end, with "FILE, line N".
/// Throws UserError for what is not UTF-8, a line of more than 1 MiB, and a file without any.
void for_each_line(
    const std::filesystem::path& path,
    const std::function<void(const std::string& line, const std::string& place)>& read);

/// The same for JSON: `read` gets the value of each line, whose errors name the place.
void for_each_json_line(const std::filesystem::path& path,
                        const std::function<void(const JsonField& root)>& read);

}  // namespace halftone
