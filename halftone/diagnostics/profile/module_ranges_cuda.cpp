// SPDX-License-Identifier: Apache-2.0
// NVTX 3 is headers of the CUDA toolkit alone: they find the tool that collects by themselves, and
// do nothing where there is none.
#include <nvtx3/nvToolsExt.h>

#include "halftone/diagnostics/profile/module_ranges_impl.h"

namespace halftone {

void ModuleRanges::push(const std::string& name) { nvtxRangePushA(name.c_str()); }

void ModuleRanges::pop() { nvtxRangePop(); }

}  // namespace halftone
