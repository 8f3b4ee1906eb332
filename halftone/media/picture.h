// SPDX-License-Identifier: Apache-2.0
// Pictures as tensors (C, H, W): C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// `picture`, uint8 (..., H, W), or floating, at another size: by LibTorch's bicubic filter, which
/// is widened where the picture gets smaller, so that no detail turns into a pattern. uint8 is
/// computed in fp32, rounded and clamped; floating dtypes may overshoot. An alpha that differs from
/// pixel to pixel must have been multiplied into the colours before. REQUIRES height, width >= 1.
torch::Tensor resized_picture(const torch::Tensor& picture, std::int64_t height,
                              std::int64_t width);

/// Pictures beside each other as one: `batch` (N, C, H, W) of any dtype, N >= 1; `columns` 0: as
/// many as make it about square. Between them, and where the last row has none, lie `gap` pixels
/// of `ground`, a value of the dtype.
torch::Tensor picture_grid(const torch::Tensor& batch, std::int64_t columns = 0,
                           std::int64_t gap = 2, double ground = 0);

/// A floating picture as uint8: 0..1 becomes 0..255, rounded; what lies outside is clamped, and NaN
/// is 0. uint8 is given back as it is.
torch::Tensor bytes_of_picture(const torch::Tensor& picture);

}  // namespace halftone
