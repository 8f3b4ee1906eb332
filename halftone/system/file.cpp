// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/system/hash.h"

namespace halftone {

void throw_file_error(const std::string& doing, const std::filesystem::path& path, int error) {
  const std::string reason = std::generic_category().message(error);
  const std::string what = fmt::format("cannot {} '{}': ", doing, path.string());
  switch (error) {
    case ENOSPC:
      throw SystemError(what + "the disk is full; free some space and try again");
    case EDQUOT:
      throw SystemError(what + "the disk quota is used up; free some space and try again");
    case EFBIG:
      throw SystemError(what + "the file would be larger than the system allows (see ulimit -f)");
    case EIO:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      throw SystemError(what + reason);
    default:
      throw UserError(what + reason);
  }
}

File::File(const std::filesystem::path& path, int flags, std::filesystem::path shown_as)
    : path_(std::move(shown_as)) {
  constexpr mode_t kReadWriteForAll = 0666;  // less the process's umask
  do descriptor_ = ::open(path.c_str(), flags | O_CLOEXEC, kReadWriteForAll);
  while (descriptor_ < 0 && errno == EINTR);
  if (descriptor_ < 0)
    throw_file_error((flags & O_ACCMODE) == O_RDONLY ? "read" : "write", path_, errno);
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

File File::open_regular(const std::filesystem::path& path) {
  // Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
  File file(path, O_RDONLY | O_NONBLOCK);
  struct stat status {};
  if (::fstat(file.descriptor_, &status) != 0) throw_file_error("read", path, errno);
  if (!S_ISREG(status.st_mode))
    throw UserError(fmt::format("cannot read '{}': expected a file, found {}", path.string(),
                                S_ISDIR(status.st_mode) ? "a folder" : "something else"));
  return file;
}

void File::write(const void* data, std::size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(descriptor_, at, bytes);
    if (written < 0) {
      if (errno == EINTR) continue;
      throw_file_error("write", path_, errno);
    }
    at += written;
    bytes -= static_cast<std::size_t>(written);
  }
}

void File::read_at(std::uint64_t offset, void* data, std::size_t bytes) const {
  char* at = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = ::pread(descriptor_, at, bytes, static_cast<off_t>(offset));
    if (got < 0) {
      if (errno == EINTR) continue;
      throw_file_error("read", path_, errno);
    }
    if (got == 0)
      throw UserError(
          fmt::format("'{}' ended at byte {} while it was read", path_.string(), offset));
    at += got;
    offset += static_cast<std::uint64_t>(got);
    bytes -= static_cast<std::size_t>(got);
  }
}

std::uint64_t File::size() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) throw_file_error("read", path_, errno);
  return static_cast<std::uint64_t>(status.st_size);
}

void File::sync() const {
  // EINVAL: a pipe or a file system that has nothing to wait for.
  if (::fsync(descriptor_) != 0 && errno != EINVAL) throw_file_error("write", path_, errno);
}

void File::close() {
  const int descriptor = std::exchange(descriptor_, -1);
  if (descriptor >= 0 && ::close(descriptor) != 0 && errno != EINTR)
    throw_file_error("write", path_, errno);
}

void sync_folder(const std::filesystem::path& folder) {
  File file(folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY);
  file.sync();
}

std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  const File file = File::open_regular(path);
  const std::uint64_t size = file.size();
  if (size > max_bytes)
    throw UserError(
        fmt::format("cannot read '{}': expected at most {}, the file has {}; is it the right one?",
                    path.string(), format_bytes(max_bytes), format_bytes(size)));
  std::string bytes(size, '\0');
  file.read_at(0, bytes.data(), bytes.size());
  return bytes;
}

std::uint64_t file_checksum(const std::filesystem::path& path) {
  const File file = File::open_regular(path);
  const std::uint64_t size = file.size();
  std::vector<char> chunk(std::size_t{1} << 20U);
  Hasher hash;
  for (std::uint64_t at = 0; at < size;) {
    const auto bytes = static_cast<std::size_t>(std::min<std::uint64_t>(chunk.size(), size - at));
    file.read_at(at, chunk.data(), bytes);
    hash.update({chunk.data(), bytes});
    at += bytes;
  }
  return hash.digest();
}

}  // namespace halftone
