// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace halftone {

constexpr std::int64_t kFmaChains = 12;  // more than latency x ports, fewer than registers

/// Runs `rounds` times kFmaChains independent fp32 multiply-adds, which start from sink[0..11];
/// returns the flops done.
double multiply_adds(std::int64_t rounds, float* sink);

/// a[i] = b[i] + 3 c[i] for `count` numbers.
void triad(float* a, const float* b, const float* c, std::int64_t count);

/// Highway's name of the instruction set that the kernels of this library run on here.
const char* dispatched_target();

}  // namespace halftone
