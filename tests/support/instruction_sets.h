// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hwy/highway.h>

namespace halftone::test {

/// Runs `body` once for each instruction set of this machine that has kernels of its own, then with
/// none of them.
template <class Body>
void for_each_instruction_set(Body&& body) {
  const auto use = [](std::int64_t targets) {
    hwy::SetSupportedTargetsForTest(targets);  // 0: what the machine has
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  };
  const std::int64_t available = hwy::SupportedTargets();
  for (const std::int64_t target : {HWY_AVX3, HWY_AVX2, HWY_SCALAR}) {
    if (target != HWY_SCALAR && (available & target) == 0) continue;
    use(target);
    body();
  }
  use(0);
}

}  // namespace halftone::test
