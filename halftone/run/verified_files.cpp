// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>

#include <array>
#include <cstdint>
#include <mutex>
#include <optional>
#include <set>

#include "halftone/run/verified_files_impl.h"

namespace halftone {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kSmallestNoted = std::int64_t{1} << 20;

/// Device, inode, size, and seconds and nanoseconds of the times of writing and of any change.
using FileStamp = std::array<std::int64_t, 7>;

std::optional<FileStamp> stamp_of(const fs::path& file) {
  struct stat found {};
  if (::stat(file.c_str(), &found) != 0 || found.st_size < kSmallestNoted) return std::nullopt;
  return FileStamp{static_cast<std::int64_t>(found.st_dev),
                   static_cast<std::int64_t>(found.st_ino),
                   found.st_size,
                   found.st_mtim.tv_sec,
                   found.st_mtim.tv_nsec,
                   found.st_ctim.tv_sec,
                   found.st_ctim.tv_nsec};
}

struct VerifiedFiles {
  std::mutex mutex;
  std::set<FileStamp> stamps;
};

VerifiedFiles& verified_files() {
  static VerifiedFiles files;
  return files;
}

}  // namespace

void note_verified(const fs::path& file) {
  const std::optional<FileStamp> stamp = stamp_of(file);
  if (!stamp) return;
  const std::lock_guard lock(verified_files().mutex);
  verified_files().stamps.insert(*stamp);
}

bool is_verified(const fs::path& file) {
  const std::optional<FileStamp> stamp = stamp_of(file);
  const std::lock_guard lock(verified_files().mutex);
  return stamp && verified_files().stamps.contains(*stamp);
}

void forget_verified(const fs::path& file) {
  const std::optional<FileStamp> stamp = stamp_of(file);
  if (!stamp) return;
  const std::lock_guard lock(verified_files().mutex);
  verified_files().stamps.erase(*stamp);
}

}  // namespace halftone
