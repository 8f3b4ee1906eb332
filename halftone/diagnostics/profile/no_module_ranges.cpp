// SPDX-License-Identifier: Apache-2.0
// What module_ranges_cuda.cpp does, for a build without CUDA: nobody collects NVTX ranges.
#include "halftone/diagnostics/profile/module_ranges_impl.h"

namespace halftone {

void ModuleRanges::push(const std::string& /*name*/) {}

void ModuleRanges::pop() {}

}  // namespace halftone
