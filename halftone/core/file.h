// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace halftone {

/// All bytes of a small file. Throws UserError when `path` is missing, unreadable, not a regular
/// file or larger than `max_bytes`.
std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes);

/// Writes `bytes` beside `path`, then renames over it: readers see the old file or the new one,
/// never a part. Throws UserError when the place can't be written to, SystemError when the disk
/// fails.
void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

}  // namespace halftone
