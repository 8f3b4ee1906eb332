// SPDX-License-Identifier: Apache-2.0
// Files and folders that appear whole or not at all: what is written goes to NAME.tmp-PID beside
// NAME, is put on the disk, and takes the name in one rename. Whatever fails before leaves what
// stood under the name as it was and removes the temporary one.
#pragma once

#include <filesystem>
#include <string_view>

#include "halftone/system/file.h"
#include "halftone/system/hash.h"

namespace halftone {

class AtomicFile {
 public:
  /// Starts to write `path`. As every call here, throws SystemError when the disk is full or broken
  /// and UserError when the path can't be written.
  explicit AtomicFile(std::filesystem::path path);
  /// Removes the temporary file unless commit() was reached.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, std::size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Gives the file its name. At most once.
  void commit();

  std::uint64_t bytes() const { return bytes_; }
  /// XXH64 of what was written.
  std::uint64_t checksum() const { return hash_.digest(); }

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  File file_;
  Hasher hash_;
  std::uint64_t bytes_ = 0;
  bool committed_ = false;
};

/// Writes a whole file.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

class AtomicFolder {
 public:
  /// Creates an empty staging() folder beside `path`.
  explicit AtomicFolder(std::filesystem::path path);
  /// Removes the staging folder unless commit() was reached.
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  /// The folder to create the files in. They must be on the disk (AtomicFile) before commit().
  const std::filesystem::path& staging() const { return staging_; }
  /// Gives the folder its name, in place of one that is there. At most once.
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path staging_;
  bool committed_ = false;
};

/// Removes the temporary files and folders that killed processes left in `folder`.
/// REQUIRES that nobody else writes there.
void remove_leftovers(const std::filesystem::path& folder);

}  // namespace halftone
