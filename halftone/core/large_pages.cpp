// SPDX-License-Identifier: Apache-2.0
#include "halftone/core/large_pages.h"

#include <ATen/ops/from_blob.h>
#include <sys/mman.h>

#include <cstdlib>
#include <new>

#include "halftone/core/error.h"

namespace halftone {

torch::Tensor empty_on_large_pages(std::int64_t bytes) {
  constexpr std::size_t kPage = std::size_t{1} << 21U;
  HALFTONE_CHECK(bytes >= 0, "[empty_on_large_pages] expected a size of at least 0, got ", bytes);
  const std::size_t size = (static_cast<std::size_t>(bytes) / kPage + 1) * kPage;
  void* memory = std::aligned_alloc(kPage, size);
  if (memory == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  // A wish: a system without such pages gives ordinary ones.
  ::madvise(memory, size, MADV_HUGEPAGE);
#endif
  return at::from_blob(
      memory, {bytes}, [](void* p) { std::free(p); }, torch::kByte);
}

}  // namespace halftone
