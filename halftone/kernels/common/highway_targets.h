// SPDX-License-Identifier: Apache-2.0
#pragma once

// The instruction sets that every kernel is compiled for: all that Highway knows for the machine
// but SSSE3 and SSE4 (nobody trains on a CPU without AVX2) and SVE (its vectors have no size at
// compile time, and the kernels keep vectors in arrays; Arm is served by NEON). To be included
// before Highway.
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
