// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/file_memory.h"

#include <ATen/ops/empty.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>
#include <system_error>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/system/file.h"
#include "halftone/system/system_pages.h"

namespace halftone {
namespace fs = std::filesystem;
namespace {

struct Mapping {
  void* address;
  std::size_t size;
};

// Also the mark by which a tensor is known to lie in a file.
void unmap(void* context) {
  const std::unique_ptr<Mapping> mapping(static_cast<Mapping*>(context));
  ::munmap(mapping->address, mapping->size);
}

// File systems without files that have no name give one that loses it at once.
File nameless_file(const fs::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
  if (descriptor >= 0) {
    ::close(descriptor);
    return File(folder, O_RDWR | O_TMPFILE);
  }
  if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
    throw_file_error("keep data in the folder", folder, errno);
  std::string name = folder / "halftone-XXXXXX";
  const int named = ::mkstemp(name.data());
  if (named < 0) throw_file_error("keep data in the folder", folder, errno);
  ::close(named);
  File file(name, O_RDWR, folder);
  ::unlink(name.c_str());
  return file;
}

// Without it a disk that fills up would be noticed by a write to memory.
void take_room(const File& file, const fs::path& folder, std::size_t bytes) {
  int error = 0;
  do error = ::posix_fallocate(file.descriptor(), 0, static_cast<off_t>(bytes));
  while (error == EINTR);
  if (error == 0) return;
  const std::string what =
      fmt::format("cannot keep {} ({} bytes) in the folder '{}': ", format_bytes(bytes), bytes,
                  folder.string());
  if (error == ENOSPC || error == EDQUOT)
    throw SystemError(what +
                      "the disk has no room for it; free some space, or name another folder");
  if (error == EFBIG)
    throw SystemError(what + "the file would be larger than the system allows (see ulimit -f)");
  throw SystemError(what + std::generic_category().message(error));
}

void advise(const torch::Tensor& tensor, int advice) {
  if (!tensor.defined() || tensor.numel() == 0 || !lies_in_file(tensor)) return;
  const auto* const mapping =
      static_cast<const Mapping*>(tensor.storage().data_ptr().get_context());
  const std::size_t page = whole_pages(1);
  const auto begin = static_cast<std::size_t>(static_cast<const char*>(tensor.const_data_ptr()) -
                                              static_cast<const char*>(mapping->address));
  const std::size_t first = begin / page * page;
  const std::size_t end = whole_pages(begin + tensor.nbytes());
  ::madvise(static_cast<char*>(mapping->address) + first, end - first, advice);
}

}  // namespace

torch::Tensor zeros_in_file(const fs::path& folder, std::int64_t bytes) {
  HALFTONE_CHECK(bytes >= 0, "[zeros_in_file] expected a size of at least 0, got ", bytes);
  const File file = nameless_file(folder);
  const std::size_t size = whole_pages(std::max<std::size_t>(static_cast<std::size_t>(bytes), 1));
  take_room(file, folder, size);
  void* const address =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.descriptor(), 0);
  if (address == MAP_FAILED) throw_file_error("map a file in", folder, errno);
  c10::DataPtr data(address, new Mapping{address, size}, &unmap, c10::Device(c10::kCPU));
  const c10::Storage storage(c10::Storage::use_byte_size_t(), size, std::move(data),
                             /*allocator=*/nullptr, /*resizable=*/false);
  return at::empty({0}, torch::kByte).set_(storage, 0, {bytes}, {1});
}

void check_file_memory(const fs::path& folder) { nameless_file(folder); }

bool is_folder_in_memory(const fs::path& folder) {
  struct statfs system {};
  return ::statfs(folder.c_str(), &system) == 0 &&
         (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC);
}

bool lies_in_file(const torch::Tensor& tensor) {
  return tensor.defined() && tensor.has_storage() &&
         tensor.storage().data_ptr().get_deleter() == &unmap;
}

void release_pages(const torch::Tensor& tensor) { advise(tensor, MADV_DONTNEED); }

void request_pages(const torch::Tensor& tensor) { advise(tensor, MADV_WILLNEED); }

}  // namespace halftone
