// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <system_error>

namespace halftone {
namespace fs = std::filesystem;
namespace {

constexpr const char* kMark = ".tmp-";

fs::path temporary_name(const fs::path& path) {
  return fs::path(path.string() + kMark + std::to_string(::getpid()));
}

void rename_or_throw(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) throw_file_error("write", to, errno);
}

void remove_quietly(const fs::path& path) {
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

bool is_leftover(const fs::path& path) {
  const std::string name = path.filename().string();
  const std::size_t mark = name.rfind(kMark);
  if (mark == std::string::npos) return false;
  const std::size_t digits = mark + std::string_view(kMark).size();
  return digits < name.size() && name.find_first_not_of("0123456789", digits) == std::string::npos;
}

}  // namespace

AtomicFile::AtomicFile(fs::path path)
    : path_(std::move(path)),
      temporary_(temporary_name(path_)),
      file_(temporary_, O_WRONLY | O_CREAT | O_TRUNC, path_) {}

AtomicFile::~AtomicFile() {
  if (!committed_) remove_quietly(temporary_);
}

void AtomicFile::write(const void* data, std::size_t bytes) {
  file_.write(data, bytes);
  hash_.update({static_cast<const char*>(data), bytes});
  bytes_ += bytes;
}

void AtomicFile::commit() {
  file_.sync();
  file_.close();
  rename_or_throw(temporary_, path_);
  committed_ = true;
  sync_folder(path_.parent_path());
}

void write_file_atomically(const fs::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

AtomicFolder::AtomicFolder(fs::path path)
    : path_(std::move(path)), staging_(temporary_name(path_)) {
  remove_quietly(staging_);
  std::error_code error;
  fs::create_directories(staging_, error);
  if (error) throw_file_error("create", path_, error.value());
}

AtomicFolder::~AtomicFolder() {
  if (!committed_) remove_quietly(staging_);
}

void AtomicFolder::commit() {
  sync_folder(staging_);
  if (fs::exists(path_)) {
    // Swapping never leaves a moment without a folder of that name; not every file system can.
    if (::renameat2(AT_FDCWD, staging_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) == 0) {
      committed_ = true;
      remove_quietly(staging_);
      return sync_folder(path_.parent_path());
    }
    remove_quietly(path_);
  }
  rename_or_throw(staging_, path_);
  committed_ = true;
  sync_folder(path_.parent_path());
}

void remove_leftovers(const fs::path& folder) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error))
    if (is_leftover(entry.path())) remove_quietly(entry.path());
}

}  // namespace halftone
