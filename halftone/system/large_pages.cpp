// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/large_pages.h"

#include <ATen/ops/from_blob.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "halftone/core/error.h"
#include "halftone/system/system_pages.h"

namespace halftone {

namespace {

// At least one page.
std::size_t whole_large_pages(std::int64_t bytes) {
  return (static_cast<std::size_t>(bytes) / kLargePageBytes + 1) * kLargePageBytes;
}

// Only advice: a system without such pages gives ordinary ones.
void wish_for_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t size) {
#ifdef MADV_HUGEPAGE
  ::madvise(memory, size, MADV_HUGEPAGE);
#endif
}

}  // namespace

void clear_pages(const torch::Tensor& tensor) {
  HALFTONE_CHECK(tensor.is_cpu() && tensor.is_contiguous(),
                 "[clear_pages] expected a contiguous tensor on the CPU");
  auto* const begin = static_cast<char*>(tensor.mutable_data_ptr());
  char* const end = begin + tensor.nbytes();
  const std::size_t page = whole_pages(1);
  const auto up = [page](const char* at) {
    return (reinterpret_cast<std::uintptr_t>(at) + page - 1) / page * page;
  };
  auto* const first = reinterpret_cast<char*>(up(begin));
  auto* const last = reinterpret_cast<char*>(reinterpret_cast<std::uintptr_t>(end) / page * page);
  if (first >= last ||
      ::madvise(first, static_cast<std::size_t>(last - first), MADV_DONTNEED) != 0) {
    std::memset(begin, 0, tensor.nbytes());
    return;
  }
  std::memset(begin, 0, static_cast<std::size_t>(first - begin));
  std::memset(last, 0, static_cast<std::size_t>(end - last));
}

torch::Tensor empty_on_large_pages(std::int64_t bytes) {
  HALFTONE_CHECK(bytes >= 0, "[empty_on_large_pages] expected a size of at least 0, got ", bytes);
  const std::size_t size = whole_large_pages(bytes);
  void* memory = std::aligned_alloc(kLargePageBytes, size);
  if (memory == nullptr) throw std::bad_alloc();
  wish_for_large_pages(memory, size);
  return at::from_blob(
      memory, {bytes}, [](void* p) { std::free(p); }, torch::kByte);
}

torch::Tensor zeros_on_large_pages(std::int64_t bytes) {
  HALFTONE_CHECK(bytes >= 0, "[zeros_on_large_pages] expected a size of at least 0, got ", bytes);
  const std::size_t size = whole_large_pages(bytes);
  void* const mapped = map_pages(size);
  if (mapped == nullptr) throw std::bad_alloc();
  return at::from_blob(
      mapped, {bytes}, [size](void* p) { unmap_pages(p, size); }, torch::kByte);
}

}  // namespace halftone
