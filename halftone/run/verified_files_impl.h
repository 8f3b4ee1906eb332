// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

namespace halftone {

/// Remembers that the bytes of `file` have their checksum, until the file changes: gigabytes need
/// not be read again to know that a checkpoint is whole. Files below a mebibyte, which are read in
/// no time, are not remembered. Thread-safe, as the two below.
void note_verified(const std::filesystem::path& file);
/// Whether it was, and has not changed since by size, inode and times.
bool is_verified(const std::filesystem::path& file);
/// For a file that is about to be removed.
void forget_verified(const std::filesystem::path& file);

}  // namespace halftone
