// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace halftone {

/// Bytes of a large page.
inline constexpr std::size_t kLargePageBytes = std::size_t{1} << 21U;

/// `bytes` rounded up to pages of the system.
std::size_t whole_pages(std::size_t bytes);

/// `bytes` > 0 of zeros, whole pages, straight from the system: on pages of 2 MiB where the system
/// has them and they are full. Begins on a boundary of 2 MiB where it is that long. nullptr where
/// the system has no more.
void* map_pages(std::size_t bytes);
void unmap_pages(void* address, std::size_t bytes);

}  // namespace halftone
