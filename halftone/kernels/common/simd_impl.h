// SPDX-License-Identifier: Apache-2.0
// The interface between the vectorised loops and their callers. It is free of LibTorch, so the
// loops compile quickly.
#pragma once

namespace halftone {

/// The vectorised code's element types; 16-bit ones are handled as their bits.
enum class KernelType { kFloat, kBFloat16, kHalf };

/// Whether this CPU runs the vectorised loops (AVX2 or better, or NEON).
bool has_simd_kernels();

}  // namespace halftone
