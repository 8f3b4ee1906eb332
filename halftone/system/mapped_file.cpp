// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/mapped_file.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>

#include "halftone/core/error.h"

namespace halftone {

MappedFile::MappedFile(const std::filesystem::path& path)
    : path_(path), file_(File::open_regular(path)), size_(file_.size()) {
  if (size_ == 0) return;  // there is nothing to map
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file_.descriptor(), 0);
  if (data == MAP_FAILED) throw_file_error("read", path_, errno);
  data_ = static_cast<char*>(data);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

std::string_view MappedFile::bytes(std::uint64_t offset, std::uint64_t count) const {
  HALFTONE_CHECK(offset <= size_ && count <= size_ - offset, "[mapped_file] expected bytes of 0..",
                 size_, ", got ", count, " from ", offset);
  const std::uint64_t now = file_.size();
  if (now < size_)
    throw UserError(fmt::format("'{}' ended at byte {} while it was read", path_.string(), now));
  return {data_ + offset, count};
}

void MappedFile::release() const {
  if (data_ != nullptr) ::madvise(data_, size_, MADV_DONTNEED);
}

}  // namespace halftone
