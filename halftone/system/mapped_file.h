// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "halftone/system/file.h"

namespace halftone {

/// A regular file's bytes, read where the system keeps them. The file stays readable when it is
/// deleted. Safe to use from several threads. A mapping cannot report an error. If another program
/// truncates the file or the disk fails after bytes(), reading ends the process with SIGBUS. Map
/// only files that are written whole and renamed into place, as this project's own are. Read others
/// with File::read_at().
class MappedFile {
 public:
  /// Throws UserError unless `path` is a regular file that can be read.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::uint64_t size() const { return size_; }  ///< when it was mapped
  /// `count` bytes from `offset` on; REQUIRES that they lie within size(). Throws UserError when
  /// the file has become shorter than it was.
  std::string_view bytes(std::uint64_t offset, std::uint64_t count) const;
  /// Takes the pages out of the process's memory, where they count as its own; reading brings them
  /// back from the system's cache.
  void release() const;

 private:
  std::filesystem::path path_;  // for errors
  File file_;
  std::uint64_t size_ = 0;
  char* data_ = nullptr;
};

}  // namespace halftone
