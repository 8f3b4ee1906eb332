// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/unfold.h"

#include <ATen/Parallel.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdint>

#include "halftone/core/error.h"
#include "halftone/kernels/common/operator_impl.h"

namespace halftone {
namespace {

using torch::Tensor;

constexpr std::int64_t kLineWork = 1 << 14;  // numbers worth a thread
constexpr std::int64_t kChannelBlock = 8;    // channels whose sums one task writes

/// A grid over pictures of a size.
struct Windows {
  Windows(const WindowGrid& the_grid, const Tensor& pictures)
      : grid(the_grid),
        channels(pictures.size(1)),
        height(pictures.size(2)),
        width(pictures.size(3)),
        down(grid.places(height, 0)),
        across(grid.places(width, 1)) {}

  std::int64_t window() const { return grid.kernel[0] * grid.kernel[1]; }
  std::int64_t row_size() const { return channels * window(); }
  std::int64_t rows_of(const WindowPart& part) const { return part.images * part.lines * across; }
  /// Of the window's `i`-th line or column at a place: the pixel, which may be beyond an edge.
  std::int64_t pixel(std::size_t side, std::int64_t place, std::int64_t i) const {
    return place * grid.stride[side] - grid.padding[side] + i * grid.dilation[side];
  }

  WindowGrid grid;
  std::int64_t channels, height, width;
  std::int64_t down, across;  // places
};

void check(const Tensor& x, const WindowGrid& grid, const WindowPart& part) {
  HALFTONE_CHECK(x.dim() == 4, "[unfold_rows] expected x (B, C, H, W), got ", x.sizes());
  const Windows windows(grid, x);
  HALFTONE_CHECK(windows.down > 0 && windows.across > 0 && part.first_image >= 0 &&
                     part.images >= 0 && part.first_image + part.images <= x.size(0) &&
                     part.first_line >= 0 && part.lines >= 0 &&
                     part.first_line + part.lines <= windows.down,
                 "[unfold_rows] expected a part of ", x.size(0), " pictures of ", windows.down,
                 " x ", windows.across, " windows, got ", part.images, " pictures from ",
                 part.first_image, ", ", part.lines, " lines from ", part.first_line);
}

/// Pixels of a picture wherever they lie.
template <class Word>
struct Picture {
  const Word* pixels;
  std::int64_t channel, line, column;  // strides
};

template <class Word>
void unfold_line(const Windows& windows, const Picture<Word>& picture, std::int64_t line,
                 Word* to) {
  const auto& [kernel, stride, padding, dilation] = windows.grid;
  for (std::int64_t place = 0; place < windows.across; ++place) {
    const std::int64_t left = windows.pixel(1, place, 0);
    for (std::int64_t c = 0; c < windows.channels; ++c) {
      for (std::int64_t i = 0; i < kernel[0]; ++i, to += kernel[1]) {
        const std::int64_t y = windows.pixel(0, line, i);
        if (y < 0 || y >= windows.height) {
          std::fill_n(to, kernel[1], Word{0});
          continue;
        }
        const Word* from = picture.pixels + c * picture.channel + y * picture.line;
        for (std::int64_t j = 0, x = left; j < kernel[1]; ++j, x += dilation[1])
          to[j] = x >= 0 && x < windows.width ? from[x * picture.column] : Word{0};
      }
    }
  }
}

template <class Word>
void unfold_lines(const Windows& windows, const Tensor& x, const WindowPart& part,
                  const Tensor& rows) {
  const auto* pixels = static_cast<const Word*>(x.const_data_ptr());
  auto* to = static_cast<Word*>(rows.data_ptr());
  const std::int64_t line_size = windows.across * windows.row_size();
  at::parallel_for(
      0, part.images * part.lines, std::max<std::int64_t>(1, kLineWork / (line_size + 1)),
      [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t image = part.first_image + i / part.lines;
          unfold_line<Word>(windows,
                            {pixels + image * x.stride(0), x.stride(1), x.stride(2), x.stride(3)},
                            part.first_line + i % part.lines, to + i * line_size);
        }
      });
}

/// Adds the rows of one picture to `count` channels from `first` on.
template <class Number>
void fold_channels(const Windows& windows, const WindowPart& part, std::int64_t first,
                   std::int64_t count, const Number* rows, Number* picture) {
  const auto& kernel = windows.grid.kernel;
  for (std::int64_t line = 0; line < part.lines; ++line) {
    for (std::int64_t place = 0; place < windows.across; ++place) {
      const Number* from =
          rows + (line * windows.across + place) * windows.row_size() + first * windows.window();
      for (std::int64_t c = first; c < first + count; ++c) {
        for (std::int64_t i = 0; i < kernel[0]; ++i, from += kernel[1]) {
          const std::int64_t y = windows.pixel(0, part.first_line + line, i);
          if (y < 0 || y >= windows.height) continue;
          Number* to = picture + (c * windows.height + y) * windows.width;
          for (std::int64_t j = 0; j < kernel[1]; ++j) {
            const std::int64_t x = windows.pixel(1, place, j);
            if (x >= 0 && x < windows.width) to[x] += from[j];
          }
        }
      }
    }
  }
}

template <class Number>
void fold_pictures(const Windows& windows, const Tensor& sum, const Tensor& rows,
                   const WindowPart& part) {
  const auto* from = rows.const_data_ptr<Number>();
  auto* to = sum.data_ptr<Number>();
  const std::int64_t blocks = (windows.channels + kChannelBlock - 1) / kChannelBlock;
  const std::int64_t picture_size = windows.channels * windows.height * windows.width;
  const std::int64_t rows_size = part.lines * windows.across * windows.row_size();
  at::parallel_for(0, part.images * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t image = i / blocks, first = i % blocks * kChannelBlock;
      fold_channels(windows, part, first, std::min(kChannelBlock, windows.channels - first),
                    from + image * rows_size, to + (part.first_image + image) * picture_size);
    }
  });
}

// The operators take a grid and a part as lists.
std::vector<std::int64_t> list_of(const WindowGrid& grid) {
  return {grid.kernel[0],  grid.kernel[1],  grid.stride[0],   grid.stride[1],
          grid.padding[0], grid.padding[1], grid.dilation[0], grid.dilation[1]};
}
std::vector<std::int64_t> list_of(const WindowPart& part) {
  return {part.first_image, part.images, part.first_line, part.lines};
}
WindowGrid grid_of(at::IntArrayRef list) {
  HALFTONE_CHECK(list.size() == 8,
                 "[unfold_rows] expected kernel, stride, padding and dilation, two numbers each, "
                 "got ",
                 list);
  return {{list[0], list[1]}, {list[2], list[3]}, {list[4], list[5]}, {list[6], list[7]}};
}
WindowPart part_of(at::IntArrayRef list) {
  HALFTONE_CHECK(list.size() == 4,
                 "[unfold_rows] expected first image, images, first line and lines, got ", list);
  return {list[0], list[1], list[2], list[3]};
}

using UnfoldSignature = Tensor(const Tensor& x, at::IntArrayRef grid, at::IntArrayRef part);
using FoldSignature = void(const Tensor& sum, const Tensor& rows, at::IntArrayRef grid,
                           at::IntArrayRef part);

Tensor unfold_by_definition(const Tensor& x, at::IntArrayRef grid, at::IntArrayRef part) {
  return unfold_rows_reference(x, grid_of(grid), part_of(part));
}

Tensor unfolded_buffer(const Tensor& x, at::IntArrayRef grid, at::IntArrayRef part) {
  const Windows windows(grid_of(grid), x);
  return at::empty({windows.rows_of(part_of(part)), windows.row_size()}, x.options());
}

Tensor unfold_on_cpu(const Tensor& x, at::IntArrayRef grid, at::IntArrayRef part) {
  const WindowPart places = part_of(part);
  check(x, grid_of(grid), places);
  const Windows windows(grid_of(grid), x);
  Tensor rows = unfolded_buffer(x, grid, part);
  switch (x.element_size()) {
    case 1:
      unfold_lines<std::uint8_t>(windows, x, places, rows);
      return rows;
    case 2:
      unfold_lines<std::uint16_t>(windows, x, places, rows);
      return rows;
    case 4:
      unfold_lines<std::uint32_t>(windows, x, places, rows);
      return rows;
    case 8:
      unfold_lines<std::uint64_t>(windows, x, places, rows);
      return rows;
    default:
      return unfold_by_definition(x, grid, part);
  }
}

void fold_by_definition(const Tensor& sum, const Tensor& rows, at::IntArrayRef grid,
                        at::IntArrayRef part) {
  fold_rows_reference_(sum, rows, grid_of(grid), part_of(part));
}

void fold_nothing(const Tensor& /*sum*/, const Tensor& /*rows*/, at::IntArrayRef /*grid*/,
                  at::IntArrayRef /*part*/) {}

void fold_on_cpu(const Tensor& sum, const Tensor& rows, at::IntArrayRef grid,
                 at::IntArrayRef part) {
  const WindowPart places = part_of(part);
  check(sum, grid_of(grid), places);
  const Windows windows(grid_of(grid), sum);
  const bool is_fp64 = sum.scalar_type() == torch::kDouble;
  HALFTONE_CHECK((is_fp64 || sum.scalar_type() == torch::kFloat) && sum.is_contiguous() &&
                     rows.scalar_type() == sum.scalar_type() && rows.dim() == 2 &&
                     rows.size(0) == windows.rows_of(places) && rows.size(1) == windows.row_size(),
                 "[fold_rows] expected a dense sum and rows (", windows.rows_of(places), ", ",
                 windows.row_size(), "), both fp32 or both fp64, got ", rows.sizes(), " in ",
                 rows.scalar_type(), " and a sum in ", sum.scalar_type());
  const Tensor dense = rows.contiguous();
  if (is_fp64)
    fold_pictures<double>(windows, sum, dense, places);
  else
    fold_pictures<float>(windows, sum, dense, places);
}

const Operator<UnfoldSignature> unfold_operator(
    "unfold_rows(Tensor x, int[] grid, int[] part) -> Tensor",
    {.reference = unfold_by_definition, .cpu = unfold_on_cpu, .meta = unfolded_buffer});

const Operator<FoldSignature> fold_operator(
    "fold_rows_(Tensor(a!) sum, Tensor rows, int[] grid, int[] part) -> ()",
    {.reference = fold_by_definition, .cpu = fold_on_cpu, .meta = fold_nothing});

}  // namespace

Tensor unfold_rows_reference(const Tensor& x, const WindowGrid& grid, const WindowPart& part) {
  check(x, grid, part);
  const Windows windows(grid, x);
  const auto& [kernel, stride, padding, dilation] = grid;
  const Tensor padded = at::constant_pad_nd(x.narrow(0, part.first_image, part.images),
                                            {padding[1], padding[1], padding[0], padding[0]})
                            .contiguous();
  const std::int64_t line = padded.stride(2);
  return padded
      .as_strided({part.images, part.lines, windows.across, windows.channels, kernel[0], kernel[1]},
                  {padded.stride(0), stride[0] * line, stride[1], padded.stride(1),
                   dilation[0] * line, dilation[1]},
                  padded.storage_offset() + part.first_line * stride[0] * line)
      .reshape({windows.rows_of(part), windows.row_size()});
}

void fold_rows_reference_(const Tensor& sum, const Tensor& rows, const WindowGrid& grid,
                          const WindowPart& part) {
  check(sum, grid, part);
  const Windows windows(grid, sum);
  const auto& [kernel, stride, padding, dilation] = grid;
  const Tensor padded = at::zeros({part.images, windows.channels, windows.height + 2 * padding[0],
                                   windows.width + 2 * padding[1]},
                                  sum.options());
  const Tensor windowed =
      rows.view({part.images, part.lines, windows.across, windows.channels, kernel[0], kernel[1]})
          .permute({0, 3, 1, 2, 4, 5});
  if (part.lines == 0) return;
  for (std::int64_t i = 0; i < kernel[0]; ++i) {
    for (std::int64_t j = 0; j < kernel[1]; ++j) {
      const std::int64_t top = part.first_line * stride[0] + i * dilation[0];
      const std::int64_t left = j * dilation[1];
      padded.slice(2, top, top + (part.lines - 1) * stride[0] + 1, stride[0])
          .slice(3, left, left + (windows.across - 1) * stride[1] + 1, stride[1])
          .add_(windowed.select(5, j).select(4, i));
    }
  }
  sum.narrow(0, part.first_image, part.images)
      .add_(padded.narrow(2, padding[0], windows.height).narrow(3, padding[1], windows.width));
}

Tensor unfold_rows(const Tensor& x, const WindowGrid& grid, const WindowPart& part) {
  return unfold_operator(x, list_of(grid), list_of(part));
}

void fold_rows_(const Tensor& sum, const Tensor& rows, const WindowGrid& grid,
                const WindowPart& part) {
  fold_operator(sum, rows, list_of(grid), list_of(part));
}

}  // namespace halftone
