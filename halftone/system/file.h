// SPDX-License-Identifier: Apache-2.0
// Files of the operating system, with every failure turned into the right kind of error: a path
// that can't be opened or written is the user's mistake, a disk that fills up or breaks is not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace halftone {

/// Throws for errno value `error`: SystemError when the disk is full, over quota or broken,
/// otherwise UserError. `doing` is "write", "read", "create"...
[[noreturn]] void throw_file_error(const std::string& doing, const std::filesystem::path& path,
                                   int error);

/// An open file that closes itself.
class File {
 public:
  /// `flags` as for open(2); errors name the file `shown_as`. Throws UserError or SystemError.
  File(const std::filesystem::path& path, int flags, std::filesystem::path shown_as);
  File(const std::filesystem::path& path, int flags) : File(path, flags, path) {}
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&&) = delete;

  /// Opens for reading; throws UserError unless it is a regular file.
  static File open_regular(const std::filesystem::path& path);

  void write(const void* data, std::size_t bytes);
  /// Reads exactly `bytes` bytes at `offset`; throws UserError when the file ends before.
  void read_at(std::uint64_t offset, void* data, std::size_t bytes) const;
  std::uint64_t size() const;
  /// Waits until what was written is on the disk.
  void sync() const;
  /// Closes; throws what the system reports only now (as network file systems do).
  void close();

  int descriptor() const { return descriptor_; }

 private:
  std::filesystem::path path_;  // for errors
  int descriptor_ = -1;
};

/// Puts the entries of a folder (a file just renamed into it) on the disk.
void sync_folder(const std::filesystem::path& folder);

/// All bytes of a small file. Throws UserError when `path` is missing, unreadable, not a regular
/// file or larger than `max_bytes`.
std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes);

/// XXH64 (system/hash.h) of a file's bytes. Throws UserError when it can't be read.
std::uint64_t file_checksum(const std::filesystem::path& path);

}  // namespace halftone
