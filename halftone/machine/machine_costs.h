// SPDX-License-Identifier: Apache-2.0
// What threads bring and what new memory costs on this machine.
#pragma once

#include <cstdint>
#include <vector>

namespace halftone {

struct ThreadSpeed {
  std::int64_t threads = 0;
  double gflops = 0;  ///< of an fp32 matmul of 1024 x 1024 x 1024, the best of several
};

/// At 1, 2, 4, ... threads up to `most`, and at each of `also` that is below it. LibTorch's own
/// number of threads is afterwards what it was.
std::vector<ThreadSpeed> thread_speeds(std::int64_t most,
                                       const std::vector<std::int64_t>& also = {});

/// Seconds from the start of an empty parallel loop of LibTorch to its end, the median of many.
double parallel_loop_seconds();

/// Seconds that writing 1 GiB takes on one thread.
struct PageCosts {
  double fresh_s = 0;        ///< on pages of 4 KiB that the system has just given
  double fresh_large_s = 0;  ///< on large pages that it has just given; 0: it gives none
  double again_s = 0;        ///< on pages that the process had before
};

PageCosts page_costs();

}  // namespace halftone
