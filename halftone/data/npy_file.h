// SPDX-License-Identifier: Apache-2.0
// NumPy's .npy, versions 1 to 3: the bytes 93 "NUMPY", a byte each for the major and minor version,
// the length of the header (little endian, 2 bytes in version 1, 4 from then on), the header, a
// dictionary of Python's with the keys 'descr', 'fortran_order' and 'shape', and the elements. The
// format is NEP 1, "A simple file format for NumPy arrays".
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

namespace halftone {

/// What the header says.
struct NpyHeader {
  torch::ScalarType dtype = torch::kFloat;
  std::vector<std::int64_t> shape;
  std::uint64_t first_byte = 0;  ///< of the elements, in the file
};

/// Reads the header at the start of `bytes`, the first ones of the file that messages call `path`;
/// `file_bytes` is how many it has in all. Takes float16, float32, float64, int8 to int64, uint8
/// and bool, little endian, in C order. Throws UserError that names the file, the place and the
/// remedy for anything else and for a file that is not as long as it says.
NpyHeader parse_npy_header(std::string_view bytes, std::uint64_t file_bytes,
                           const std::filesystem::path& path);

/// The array in a .npy file, in memory. Throws UserError that names the file.
torch::Tensor read_npy(const std::filesystem::path& path);

}  // namespace halftone
