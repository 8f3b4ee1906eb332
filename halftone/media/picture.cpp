// SPDX-License-Identifier: Apache-2.0
#include "halftone/media/picture.h"

#include <ATen/ops/_upsample_bicubic2d_aa.h>
#include <ATen/ops/full.h>
#include <ATen/ops/nan_to_num.h>

#include <cmath>
#include <vector>

#include "halftone/core/error.h"

namespace halftone {
namespace {

constexpr double kWhite = 255;

}  // namespace

torch::Tensor bytes_of_picture(const torch::Tensor& picture) {
  if (picture.scalar_type() == torch::kByte) return picture;
  HALFTONE_CHECK(picture.is_floating_point(), "[picture] expected uint8 or a floating dtype, got ",
                 picture.scalar_type());
  const torch::Tensor wide = picture.detach().to(torch::kFloat);
  return at::nan_to_num(wide, 0.0).mul(kWhite).round_().clamp_(0, kWhite).to(torch::kByte);
}

torch::Tensor resized_picture(const torch::Tensor& picture, std::int64_t height,
                              std::int64_t width) {
  HALFTONE_CHECK(picture.dim() >= 2 && picture.numel() > 0 && height >= 1 && width >= 1,
                 "[picture] expected (..., H, W) and a size of at least 1 x 1, got ",
                 picture.sizes(), " and ", height, " x ", width);
  std::vector<std::int64_t> shape = picture.sizes().vec();
  const bool is_bytes = picture.scalar_type() == torch::kByte;
  const torch::Tensor flat = picture.reshape({1, -1, shape[shape.size() - 2], shape.back()});
  torch::Tensor result = at::_upsample_bicubic2d_aa(is_bytes ? flat.to(torch::kFloat) : flat,
                                                    {height, width}, /*align_corners=*/false);
  if (is_bytes) result = result.round_().clamp_(0, kWhite).to(torch::kByte);
  shape[shape.size() - 2] = height;
  shape.back() = width;
  return result.reshape(shape);
}

torch::Tensor picture_grid(const torch::Tensor& batch, std::int64_t columns, std::int64_t gap,
                           double ground) {
  HALFTONE_CHECK(batch.dim() == 4 && batch.size(0) >= 1 && columns >= 0 && gap >= 0,
                 "[picture] expected (N, C, H, W) with N >= 1, got ", batch.sizes());
  const std::int64_t count = batch.size(0);
  const std::int64_t height = batch.size(2);
  const std::int64_t width = batch.size(3);
  if (columns == 0)
    columns = static_cast<std::int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  columns = std::min(columns, count);
  const std::int64_t rows = (count + columns - 1) / columns;
  torch::Tensor grid =
      at::full({batch.size(1), rows * (height + gap) - gap, columns * (width + gap) - gap}, ground,
               batch.options());
  for (std::int64_t i = 0; i < count; ++i)
    grid.narrow(1, i / columns * (height + gap), height)
        .narrow(2, i % columns * (width + gap), width)
        .copy_(batch[i]);
  return grid;
}

}  // namespace halftone
