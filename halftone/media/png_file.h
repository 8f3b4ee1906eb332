// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>

namespace halftone {

/// The picture of a PNG file, uint8 (C, H, W): C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and
/// alpha, as the file has them; alpha is not multiplied into the colours. Palettes are resolved,
/// samples of 1, 2 and 4 bits widened, those of 16 bits rounded to 8; gamma and colour profiles are
/// passed over. Throws UserError that names the file when it is missing, damaged, cut off, or has
/// more than `max_pixels` pixels; memory is bounded by that and by the file's size.
torch::Tensor read_png(const std::filesystem::path& path, std::int64_t max_pixels = 1LL << 26);

/// Writes `picture` (C, H, W), C as above: uint8, or floating as bytes_of_picture() (picture.h)
/// says. The file appears whole or not at all, and is the same for the same picture. Throws
/// UserError when it can't be written.
void write_png(const std::filesystem::path& path, const torch::Tensor& picture);

/// Writes `batch` (N, C, H, W) as one picture, `columns` beside each other: picture_grid(), white
/// between them.
void write_png_grid(const std::filesystem::path& path, const torch::Tensor& batch,
                    std::int64_t columns = 0);

}  // namespace halftone
