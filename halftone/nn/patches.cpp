// SPDX-License-Identifier: Apache-2.0
#include "halftone/nn/patches.h"

#include <torch/nn/functional/upsampling.h>

#include <vector>

#include "halftone/core/error.h"

namespace halftone {

using torch::Tensor;

Tensor patches_of(const Tensor& pictures, std::int64_t size) {
  HALFTONE_CHECK(pictures.dim() == 4 && size > 0 && pictures.size(2) % size == 0 &&
                     pictures.size(3) % size == 0,
                 "[patches_of] expected pictures (B, C, H, W) in whole patches of ", size, " by ",
                 size, ", got ", pictures.sizes());
  const std::int64_t down = pictures.size(2) / size, across = pictures.size(3) / size;
  const Tensor squares = pictures.reshape({-1, pictures.size(1), down, size, across, size});
  return squares.permute({0, 2, 4, 1, 3, 5})
      .reshape({pictures.size(0), down * across, pictures.size(1) * size * size});
}

Tensor pictures_of_patches(const Tensor& patches, std::int64_t size, std::int64_t width) {
  HALFTONE_CHECK(patches.dim() == 3 && size > 0 && patches.size(2) % (size * size) == 0 &&
                     width > 0 && width % size == 0 && patches.size(1) % (width / size) == 0,
                 "[pictures_of_patches] expected patches (B, N, C ", size, " ", size,
                 ") of pictures ", width, " wide, got ", patches.sizes());
  const std::int64_t across = width / size, down = patches.size(1) / across;
  const std::int64_t channels = patches.size(2) / (size * size);
  const Tensor squares = patches.reshape({-1, down, across, channels, size, size});
  return squares.permute({0, 3, 1, 4, 2, 5})
      .reshape({patches.size(0), channels, down * size, width});
}

Tensor resized_patch_weights(const Tensor& weights, std::int64_t from, std::int64_t to) {
  HALFTONE_CHECK(weights.dim() == 2 && from > 0 && to > 0 && weights.size(1) % (from * from) == 0,
                 "[resized_patch_weights] expected weights (N, C ", from, " ", from, "), got ",
                 weights.sizes());
  namespace F = torch::nn::functional;
  const Tensor squares = weights.reshape({weights.size(0), -1, from, from});
  return F::interpolate(squares, F::InterpolateFuncOptions()
                                     .size(std::vector<std::int64_t>{to, to})
                                     .mode(torch::kBilinear)
                                     .align_corners(false))
      .flatten(1);
}

}  // namespace halftone
