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

/// For a program that trains, at its start: makes the C library keep what is freed, for the whole
/// process, where it would hand large blocks back to the system. Steps ask for the same sizes again
/// and again; once they have seen them, they get no new pages. Does nothing where the C library is
/// not glibc, and where GLIBC_TUNABLES sets these thresholds.
void keep_freed_memory();

}  // namespace halftone
