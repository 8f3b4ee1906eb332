// SPDX-License-Identifier: Apache-2.0
#include "halftone/system/memory.h"

#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string_view>

#include "halftone/system/pooled_allocator.h"

namespace halftone {

std::uint64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t total_pages = 0;
  std::uint64_t resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return statm ? resident_pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)) : 0;
}

std::uint64_t peak_resident_bytes() {
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<std::uint64_t>(usage.ru_maxrss) * 1024
                                             : 0;
}

void release_free_memory() {
  release_pooled_memory();
  ::malloc_trim(0);
}

void reset_peak_resident_bytes() {
  release_free_memory();
  std::ofstream("/proc/self/clear_refs") << "5";  // Linux: the peak becomes what is resident now
}

void keep_freed_memory() {
  pool_large_tensors();
  const char* tunables = std::getenv("GLIBC_TUNABLES");
  if (tunables != nullptr &&
      std::string_view(tunables).find("glibc.malloc.") != std::string_view::npos)
    return;
  ::mallopt(M_MMAP_THRESHOLD, 1 << 30);
  ::mallopt(M_TRIM_THRESHOLD, -1);  // never
}

}  // namespace halftone
