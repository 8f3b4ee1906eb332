// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/system_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

namespace halftone {
namespace {

void* map_anywhere(std::size_t bytes) {
  void* const mapped =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return mapped == MAP_FAILED ? nullptr : mapped;
}

/// A large page more than is needed, so that there is an aligned start; the ends go back.
void* map_aligned(std::size_t bytes) {
  auto* const first = static_cast<char*>(map_anywhere(bytes + kLargePageBytes));
  if (first == nullptr) return nullptr;
  const std::size_t before =
      (kLargePageBytes - reinterpret_cast<std::uintptr_t>(first) % kLargePageBytes) %
      kLargePageBytes;
  if (before > 0) ::munmap(first, before);
  ::munmap(first + before + bytes, kLargePageBytes - before);
  return first + before;
}

}  // namespace

std::size_t whole_pages(std::size_t bytes) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

void* map_pages(std::size_t bytes) {
  if (bytes < kLargePageBytes) return map_anywhere(bytes);
  void* const mapped = map_aligned(bytes);
#ifdef MADV_HUGEPAGE
  // Only advice: a system without such pages gives ordinary ones.
  if (mapped != nullptr) ::madvise(mapped, bytes, MADV_HUGEPAGE);
#endif
  return mapped;
}

void unmap_pages(void* address, std::size_t bytes) { ::munmap(address, bytes); }

}  // namespace halftone
