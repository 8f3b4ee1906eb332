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

/// Hands free memory back to the system, where it lies scattered too.
void release_free_memory();

/// Makes the whole process keep freed memory instead of returning it to the system. For a program
/// that trains, at its start. Steps ask for the same sizes again and again; once they have seen
/// them, they get no new pages. Large CPU tensors lie in a pool that holds at most a sixth more
/// than they ever took at once (system/block_pool.h); for all else the C library keeps it, where
/// that is glibc and GLIBC_TUNABLES sets no thresholds.
void keep_freed_memory();

}  // namespace halftone
