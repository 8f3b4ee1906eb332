// SPDX-License-Identifier: Apache-2.0
// Zip archives whose entries are stored and not compressed, as torch.save writes them: each entry
// is a range of the file's bytes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "halftone/system/file.h"

namespace halftone {

struct ZipEntry {
  std::string name;         // any bytes
  std::uint64_t begin = 0;  // of its bytes in the file
  std::uint64_t size = 0;   // in bytes
  std::uint32_t crc32 = 0;  // of its bytes; 0 where the writer left it out
};

/// A file that stays open: its entries are read from it whatever happens to its name. The file is
/// taken as hostile. Its entries lie within it and apart from each other. Safe to use from several
/// threads.
class ZipArchive {
 public:
  /// Reads the directory (zip64, too) and no entry. Throws UserError when `path` is no zip archive,
  /// is damaged, spans several files, or has a name twice or an entry that is compressed or
  /// encrypted.
  explicit ZipArchive(const std::filesystem::path& path);

  /// By name.
  const std::vector<ZipEntry>& entries() const { return entries_; }
  /// Nothing when there is none of this name.
  const ZipEntry* find(std::string_view name) const;

  /// Reads `bytes` bytes at `offset` of an entry of this archive; REQUIRES that they lie within it.
  /// Throws UserError when the entry's checksum is wrong or the file has become shorter. The first
  /// read of a part reads the whole entry for its checksum.
  void read(const ZipEntry& entry, std::uint64_t offset, void* data, std::size_t bytes) const;
  /// All bytes of an entry. Throws UserError when it has more than `max_bytes`, and as above.
  std::string read_all(const ZipEntry& entry, std::uint64_t max_bytes) const;

 private:
  std::string path_;  // for errors
  File file_;
  std::vector<ZipEntry> entries_;
  std::unique_ptr<std::atomic<bool>[]> verified_;  // by the place in entries_

  void verify(const ZipEntry& entry) const;
  void require_checksum(const ZipEntry& entry, std::uint32_t computed) const;
};

/// Whether the file begins as an archive with entries does. Throws UserError when `path` is no
/// readable file.
bool begins_as_zip(const std::filesystem::path& path);

}  // namespace halftone
