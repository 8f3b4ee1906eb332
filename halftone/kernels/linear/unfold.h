// SPDX-License-Identifier: Apache-2.0
// The windows that a convolution sees, as rows of a matrix (im2col; Chellapilla et al. 2006), and
// back.
#pragma once

#include <torch/types.h>

#include <array>
#include <cstdint>

namespace halftone {

/// How a window moves over a picture of height and width; pixels beyond its edges are 0.
struct WindowGrid {
  std::array<std::int64_t, 2> kernel{1, 1};
  std::array<std::int64_t, 2> stride{1, 1};
  std::array<std::int64_t, 2> padding{0, 0};   // at either edge
  std::array<std::int64_t, 2> dilation{1, 1};  // from one pixel of the window to the next

  /// How many places the window has along side 0 (height) or 1 (width) of `size` pixels; 0 where
  /// it does not fit.
  std::int64_t places(std::int64_t size, std::size_t side) const {
    const std::int64_t room = size + 2 * padding[side] - dilation[side] * (kernel[side] - 1) - 1;
    return room < 0 ? 0 : room / stride[side] + 1;  // division rounds towards 0
  }
  /// Whether the windows tile the picture: each pixel is in one of them at most.
  bool tiles() const {
    return stride == kernel && padding == std::array<std::int64_t, 2>{0, 0} &&
           dilation == std::array<std::int64_t, 2>{1, 1};
  }
};

/// Some of the windows' places: `lines` lines of each of `images` pictures.
struct WindowPart {
  std::int64_t first_image = 0;
  std::int64_t images = 0;
  std::int64_t first_line = 0;
  std::int64_t lines = 0;
};

/// The windows at the places of `part`, a row each: (images * lines * places along the width,
/// C * kernel height * kernel width), in the order of a weight (out, C, height, width). x (B, C, H,
/// W), any strides; any dtype of 1 to 8 bytes, which the rows have too. Not recorded for autograd.
torch::Tensor unfold_rows(const torch::Tensor& x, const WindowGrid& grid, const WindowPart& part);

/// Adds each number of `rows` to the pixel of `sum` from which unfold_rows() took it. sum (B, C, H,
/// W) dense and `rows`, both fp32 or both fp64. The order of the additions does not depend on the
/// number of threads.
void fold_rows_(const torch::Tensor& sum, const torch::Tensor& rows, const WindowGrid& grid,
                const WindowPart& part);

/// The definitions, in plain ATen operations.
torch::Tensor unfold_rows_reference(const torch::Tensor& x, const WindowGrid& grid,
                                    const WindowPart& part);
void fold_rows_reference_(const torch::Tensor& sum, const torch::Tensor& rows,
                          const WindowGrid& grid, const WindowPart& part);

}  // namespace halftone
