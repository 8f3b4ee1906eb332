// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// `bytes` uninitialised bytes on the CPU, as a uint8 vector that begins at a multiple of 2 MiB and
/// lies on pages of that size where the system gives them (Linux with transparent huge pages):
/// memory that is read from end to end again and again then arrives up to twice as fast as from
/// 4 KiB pages, whose addresses must be looked up 512 times as often.
torch::Tensor empty_on_large_pages(std::int64_t bytes);

/// The same, all zero. The pages are fresh ones, which the system clears when they are first
/// touched: until then they take no memory, and nothing is written twice.
torch::Tensor zeros_on_large_pages(std::int64_t bytes);

/// Sets a contiguous tensor of such memory, or a part of one, to zero and gives the pages that lie
/// in it back: they take no memory until they are touched again. Of any other memory on the CPU the
/// system copies what it must, and the same holds.
void clear_pages(const torch::Tensor& tensor);

}  // namespace halftone
