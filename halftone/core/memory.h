// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace halftone {

/// Bytes of this process's resident set, now and at its peak; 0 where the system does not tell.
std::uint64_t resident_bytes();
std::uint64_t peak_resident_bytes();

/// Hands free memory back to the system and lets peak_resident_bytes() begin anew, where the system
/// can.
void reset_peak_resident_bytes();

}  // namespace halftone
