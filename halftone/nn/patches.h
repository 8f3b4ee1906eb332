// SPDX-License-Identifier: Apache-2.0
// Pictures as rows, one for each square of their pixels: what a vision transformer sees and a
// diffusion transformer paints.
#pragma once

#include <torch/types.h>

#include <cstdint>

namespace halftone {

/// Pictures (B, C, H, W) as (B, H / size * W / size, C size size), row by row of squares; in a row
/// channel by channel. Throws c10::Error unless `size` divides both sides.
torch::Tensor patches_of(const torch::Tensor& pictures, std::int64_t size);

/// The pictures, (B, C, H, `width`), that patches_of() makes `patches` of. Throws c10::Error where
/// there are none.
torch::Tensor pictures_of_patches(const torch::Tensor& patches, std::int64_t size,
                                  std::int64_t width);

/// Weights (N, C from from) of a layer that takes or gives patches of `from` pixels, smoothly
/// (bilinear) over those of `to` pixels: (N, C to to). So a layer that gives patches gives the
/// same picture, enlarged; one that takes them is to be divided by (to / from)^2, since as many
/// more pixels are added up.
torch::Tensor resized_patch_weights(const torch::Tensor& weights, std::int64_t from,
                                    std::int64_t to);

}  // namespace halftone
