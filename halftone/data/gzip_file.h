// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

namespace halftone {

/// The bytes of a file from front to back: as they are, or, when its first two say gzip (RFC 1952),
/// unpacked and held to the checksums of its members. Memory does not grow with the file.
class GzipFile {
 public:
  /// Throws UserError when `path` is missing, unreadable or not a regular file.
  explicit GzipFile(const std::filesystem::path& path);
  ~GzipFile();
  GzipFile(const GzipFile&) = delete;
  GzipFile& operator=(const GzipFile&) = delete;

  /// Puts the next `bytes` bytes at `out`, fewer only at the end; returns how many. Throws
  /// UserError that names the file and the place where its packing is damaged or cut off.
  std::size_t read(void* out, std::size_t bytes);

  /// How many bytes read() has given.
  std::uint64_t position() const;
  /// No more bytes than these can come out of a file of this size.
  std::uint64_t most_bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace halftone
