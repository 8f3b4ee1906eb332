// SPDX-License-Identifier: Apache-2.0
#include "halftone/kernels/linear/unfold.h"

#include <ATen/ops/im2col.h>
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "support/on_devices.h"

namespace halftone::unfold_test {
namespace {

using torch::Tensor;

std::vector<WindowGrid> grids() {
  return {{.kernel = {1, 1}},
          {.kernel = {3, 3}, .padding = {1, 1}},
          {.kernel = {3, 2}, .stride = {2, 1}, .padding = {0, 1}},
          {.kernel = {2, 3}, .stride = {2, 3}},
          {.kernel = {3, 3}, .stride = {1, 2}, .padding = {3, 4}, .dilation = {2, 3}},
          {.kernel = {7, 5}, .padding = {2, 0}}};
}

WindowPart all_of(const Tensor& x, const WindowGrid& grid) {
  return {0, x.size(0), 0, grid.places(x.size(2), 0)};
}

/// LibTorch's own, whose columns are our rows.
Tensor libtorchs(const Tensor& x, const WindowGrid& grid) {
  const Tensor columns = at::im2col(x, grid.kernel, grid.dilation, grid.padding, grid.stride);
  return columns.transpose(1, 2).flatten(0, 1);
}

using UnfoldOn = test::OnDevices;
HALFTONE_ON_DEVICES(UnfoldOn);

TEST_P(UnfoldOn, EqualsIm2colOnOddSizesAndInEveryDtype) {
  torch::manual_seed(1);
  const Tensor x = torch::randn({3, 5, 7, 11});
  for (const WindowGrid& grid : grids()) {
    const Tensor expected = libtorchs(x, grid);
    for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kBFloat16, torch::kHalf}) {
      const Tensor rows = unfold_rows(here(x.to(dtype)), grid, all_of(x, grid));
      EXPECT_EQ(rows.scalar_type(), dtype);
      EXPECT_TRUE(rows.cpu().equal(expected.to(dtype)));
    }
    const Tensor bytes = x.mul(40).to(torch::kChar);
    EXPECT_TRUE(unfold_rows(here(bytes), grid, all_of(x, grid))
                    .cpu()
                    .equal(libtorchs(bytes.to(torch::kFloat), grid).to(torch::kChar)));
  }
}

TEST_P(UnfoldOn, TakesPixelsWhereverTheyLie) {
  torch::manual_seed(2);
  const WindowGrid grid{.kernel = {3, 3}, .padding = {1, 1}};
  const Tensor store = torch::randn({3, 9, 8, 13});
  const Tensor odd = store.narrow(1, 1, 5).narrow(3, 1, 11);
  const Tensor expected = libtorchs(odd.contiguous(), grid);
  const Tensor shifted = here(store).narrow(1, 1, 5).narrow(3, 1, 11);
  for (const Tensor& x : {shifted, shifted.contiguous(at::MemoryFormat::ChannelsLast),
                          shifted.transpose(2, 3).contiguous().transpose(2, 3)})
    EXPECT_TRUE(unfold_rows(x, grid, all_of(x, grid)).cpu().equal(expected));
}

TEST_P(UnfoldOn, PartsAreTheRowsOfAll) {
  torch::manual_seed(3);
  const Tensor x = here(torch::randn({3, 4, 9, 6}));
  for (const WindowGrid& grid : grids()) {
    const std::int64_t lines = grid.places(9, 0), across = grid.places(6, 1);
    const Tensor all = unfold_rows(x, grid, all_of(x, grid));
    EXPECT_TRUE(unfold_rows(x, grid, {1, 2, 0, lines})
                    .equal(all.narrow(0, lines * across, 2 * lines * across)));
    if (lines < 3) continue;
    EXPECT_TRUE(unfold_rows(x, grid, {2, 1, 1, 2})
                    .equal(all.narrow(0, (2 * lines + 1) * across, 2 * across)));
  }
}

TEST_P(UnfoldOn, FoldingAddsWhatUnfoldingTook) {
  torch::manual_seed(4);
  for (const WindowGrid& grid : grids()) {
    for (const auto dtype : {torch::kFloat, torch::kDouble}) {
      const Tensor x = here(torch::randn({3, 19, 9, 7}, dtype));
      const WindowPart part{1, 2, 0, grid.places(9, 0)};
      const Tensor rows = torch::randn_like(unfold_rows(x, grid, part));
      const Tensor sum = torch::ones_like(x), expected = torch::ones_like(x);
      fold_rows_(sum, rows, grid, part);
      fold_rows_reference_(expected, rows, grid, part);
      const double error = dtype == torch::kFloat ? 1e-5 : 1e-13;
      EXPECT_LT((sum - expected).abs().max().item<double>(), error);
      EXPECT_TRUE(sum[0].equal(torch::ones_like(sum[0])));
      // The transposed map: <unfold x, rows> = <x, fold rows>.
      const Tensor left = (unfold_rows(x, grid, part) * rows).to(torch::kDouble).sum();
      const Tensor right = (x * (sum - 1)).to(torch::kDouble).sum();
      EXPECT_NEAR(left.item<double>(), right.item<double>(), 2e3 * error);
    }
  }
}

TEST_P(UnfoldOn, FoldsPartsOfAPicture) {
  torch::manual_seed(5);
  const WindowGrid grid{.kernel = {3, 3}, .stride = {2, 1}, .padding = {1, 1}};
  const Tensor x = here(torch::zeros({2, 3, 11, 6}));
  const std::int64_t lines = grid.places(11, 0);
  const Tensor rows = here(torch::randn({2 * lines * grid.places(6, 1), 27}));
  const Tensor whole = torch::zeros_like(x), parts = torch::zeros_like(x);
  fold_rows_(whole, rows, grid, {0, 2, 0, lines});
  const std::int64_t line = grid.places(6, 1);
  for (std::int64_t image = 0; image < 2; ++image) {
    fold_rows_(parts, rows.narrow(0, image * lines * line, 2 * line), grid, {image, 1, 0, 2});
    fold_rows_(parts, rows.narrow(0, (image * lines + 2) * line, (lines - 2) * line), grid,
               {image, 1, 2, lines - 2});
  }
  EXPECT_LT((whole - parts).abs().max().item<double>(), 1e-5);
}

TEST_P(UnfoldOn, TakesNoPictures) {
  const WindowGrid grid{.kernel = {3, 3}, .padding = {1, 1}};
  const Tensor x = here(torch::zeros({0, 4, 5, 5}));
  EXPECT_EQ(unfold_rows(x, grid, {0, 0, 0, 5}).sizes(), (std::vector<std::int64_t>{0, 36}));
  fold_rows_(x, here(torch::zeros({0, 36})), grid, {0, 0, 0, 5});
}

TEST_P(UnfoldOn, KeepsWhatIsNotFinite) {
  const WindowGrid grid{.kernel = {3, 3}, .padding = {1, 1}};
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  Tensor x = torch::ones({1, 1, 4, 4});
  x[0][0][1][1] = nan;
  x[0][0][3][3] = -inf;
  const Tensor rows = unfold_rows(here(x), grid, all_of(x, grid)).cpu();
  EXPECT_EQ(rows.isnan().sum().item<std::int64_t>(), 9);
  EXPECT_EQ((rows == -inf).sum().item<std::int64_t>(), 4);
  const Tensor sum = here(torch::zeros({1, 1, 4, 4}));
  fold_rows_(sum, here(rows), grid, all_of(x, grid));
  EXPECT_TRUE(sum[0][0][1][1].isnan().item<bool>());
  EXPECT_EQ(sum.isfinite().sum().item<std::int64_t>(), 14);
}

TEST(Unfold, FoldingDoesNotDependOnTheNumberOfThreads) {
  torch::manual_seed(6);
  const WindowGrid grid{.kernel = {5, 5}, .padding = {2, 2}};
  const Tensor rows = torch::randn({2 * 20 * 20, 25 * 17});
  const int before = at::get_num_threads();
  std::vector<Tensor> sums;
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    sums.push_back(torch::zeros({2, 17, 20, 20}));
    fold_rows_(sums.back(), rows, grid, {0, 2, 0, 20});
  }
  at::set_num_threads(before);
  EXPECT_TRUE(sums[0].equal(sums[1]));
}

TEST(Unfold, HasNoPlaceWhereTheWindowDoesNotFit) {
  for (const std::int64_t stride : {1, 2, 3, 7}) {
    const WindowGrid grid{.kernel = {3, 3}, .stride = {stride, stride}};
    EXPECT_EQ(grid.places(1, 0), 0);
    EXPECT_EQ(grid.places(2, 1), 0);
    EXPECT_EQ(grid.places(3, 0), 1);
    EXPECT_EQ(grid.places(3 + stride, 1), 2);
  }
}

TEST(Unfold, RefusesPartsThatAreNotThere) {
  const WindowGrid grid{.kernel = {3, 3}};
  const Tensor x = torch::zeros({2, 1, 5, 5});
  EXPECT_THROW(unfold_rows(x, grid, {1, 2, 0, 3}), c10::Error);
  EXPECT_THROW(unfold_rows(x, grid, {0, 2, 1, 3}), c10::Error);
  EXPECT_THROW(unfold_rows(x, {.kernel = {6, 1}}, {0, 2, 0, 0}), c10::Error);
  EXPECT_THROW(unfold_rows(x, {.kernel = {6, 1}, .stride = {2, 1}}, {0, 2, 0, 1}), c10::Error);
  EXPECT_THROW(fold_rows_(x, torch::zeros({5, 9}), grid, {0, 2, 0, 3}), c10::Error);
  EXPECT_THROW(unfold_rows(x[0], grid, {0, 1, 0, 3}), c10::Error);
}

}  // namespace
}  // namespace halftone::unfold_test
