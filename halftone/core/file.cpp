// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "halftone/core/error.h"
#include "halftone/core/text.h"

namespace halftone {
namespace {

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, Close>;

[[noreturn]] void fail_writing(const std::filesystem::path& path, int error) {
  const std::string message =
      fmt::format("{}: cannot write: {}", path.string(), std::strerror(error));
  if (error == ENOSPC || error == EIO || error == EDQUOT)
    throw SystemError(message + "; make room there and try again");
  throw UserError(message + "; choose a place that can be written to");
}

// False leaves the reason in errno.
bool write_and_sync(const std::filesystem::path& path, std::string_view bytes) {
  File file(std::fopen(path.c_str(), "wb"));
  if (!file) return false;
  if (std::fwrite(bytes.data(), 1, bytes.size(), file.get()) != bytes.size()) return false;
  if (std::fflush(file.get()) != 0 || ::fsync(::fileno(file.get())) != 0) return false;
  return std::fclose(file.release()) == 0;
}

}  // namespace

std::string read_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error))
    throw UserError(
        fmt::format("{}: expected a file, found {}", path.string(),
                    std::filesystem::exists(path, error) ? "something else" : "nothing"));
  const auto size = std::filesystem::file_size(path, error);
  if (!error && size > max_bytes)
    throw UserError(fmt::format("{}: expected at most {}, the file has {}; is it the right one?",
                                path.string(), format_bytes(max_bytes), format_bytes(size)));
  const File file(std::fopen(path.c_str(), "rb"));
  std::string bytes(error ? 0 : size, '\0');
  if (!file || error || std::fread(bytes.data(), 1, size, file.get()) != size)
    throw UserError(fmt::format("{}: cannot read: {}", path.string(), std::strerror(errno)));
  return bytes;
}

void write_file_atomically(const std::filesystem::path& path, std::string_view bytes) {
  const std::filesystem::path temporary = path.string() + fmt::format(".{}.tmp", ::getpid());
  if (!write_and_sync(temporary, bytes) || std::rename(temporary.c_str(), path.c_str()) != 0) {
    const int reason = errno;
    std::remove(temporary.c_str());
    fail_writing(path, reason);
  }
}

}  // namespace halftone
