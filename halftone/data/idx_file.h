// SPDX-License-Identifier: Apache-2.0
// IDX, the format of MNIST and of the data sets that look like it.
//
// Big endian: two zero bytes, a byte for the dtype (0x08 uint8, 0x09 int8, 0x0B int16, 0x0C int32,
// 0x0D float32, 0x0E float64), a byte for the number of dimensions, their sizes as uint32 each, and
// the elements, the last dimension running fastest.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>

namespace halftone {

/// The array in an IDX file, plain or packed with gzip. Throws UserError that names the file when
/// it is not one whole, undamaged array and nothing else, and when the array has more than
/// `max_bytes` bytes, before memory is taken for it.
torch::Tensor read_idx(const std::filesystem::path& path,
                       std::uint64_t max_bytes = std::uint64_t{16} << 30U);

}  // namespace halftone
