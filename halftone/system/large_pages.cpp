// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/large_pages.h"

#include <ATen/ops/from_blob.h>
#include <sys/mman.h>

#include <cstdlib>
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
