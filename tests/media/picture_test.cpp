// SPDX-License-Identifier: Apache-2.0
#include "halftone/media/picture.h"

#include <gtest/gtest.h>

#include <limits>

#include "halftone/core/error.h"

namespace halftone::picture_test {
namespace {

TEST(BytesOfPicture, RoundsAndClamps) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const torch::Tensor values = torch::tensor({0.F, 1.F, 0.5019F, -3.F, 7.F, nan});
  EXPECT_TRUE(
      bytes_of_picture(values).equal(torch::tensor({0, 255, 128, 0, 255, 0}, torch::kByte)));
  EXPECT_TRUE(bytes_of_picture(values.to(torch::kBFloat16))
                  .equal(torch::tensor({0, 255, 128, 0, 255, 0}, torch::kByte)));
  const torch::Tensor bytes = torch::tensor({3, 200}, torch::kByte);
  EXPECT_TRUE(bytes_of_picture(bytes).equal(bytes));
  EXPECT_THROW(bytes_of_picture(torch::tensor({1, 2})), c10::Error);
}

TEST(ResizedPicture, KeepsAnEvenColour) {
  const torch::Tensor even = torch::full({3, 13, 17}, 77, torch::kByte);
  for (const std::int64_t side : {1, 5, 13, 64})
    EXPECT_TRUE(
        resized_picture(even, side, side).equal(torch::full({3, side, side}, 77, torch::kByte)));
}

// Without a wider filter, every second column would be taken: all black or all white.
TEST(ResizedPicture, AveragesStripesWhenItShrinks) {
  torch::Tensor stripes = torch::zeros({1, 64, 64}, torch::kByte);
  stripes.slice(2, 0, 64, 2).fill_(255);
  const torch::Tensor small = resized_picture(stripes, 16, 16).to(torch::kInt);
  EXPECT_GE(small.min().item<int>(), 115);  // the edges see less
  EXPECT_LE(small.max().item<int>(), 140);
}

TEST(ResizedPicture, KeepsARampAndItsPlace) {
  const torch::Tensor ramp = torch::arange(64.0).div(64).expand({2, 64, 64});
  const torch::Tensor small = resized_picture(ramp, 32, 32);
  ASSERT_EQ(small.sizes(), torch::IntArrayRef({2, 32, 32}));
  // A pixel of the smaller one is the mean of two neighbours, but at the edges.
  const torch::Tensor expected = torch::arange(32.0).mul(2).add(0.5).div(64).expand({2, 32, 32});
  EXPECT_LT((small - expected).slice(2, 2, 30).abs().max().item<double>(), 1e-6);
}

TEST(PictureGrid, PutsPicturesInRows) {
  const torch::Tensor batch = torch::arange(1, 4).reshape({3, 1, 1, 1}).expand({3, 1, 2, 2});
  const torch::Tensor grid = picture_grid(batch, 2, 1, 9);
  const torch::Tensor expected = torch::tensor(
      {{1, 1, 9, 2, 2}, {1, 1, 9, 2, 2}, {9, 9, 9, 9, 9}, {3, 3, 9, 9, 9}, {3, 3, 9, 9, 9}});
  EXPECT_TRUE(grid[0].equal(expected)) << grid;
  EXPECT_EQ(picture_grid(torch::zeros({10, 3, 4, 4})).sizes(), torch::IntArrayRef({3, 16, 22}));
  EXPECT_EQ(picture_grid(torch::zeros({1, 3, 4, 4}), 8).sizes(), torch::IntArrayRef({3, 4, 4}));
  EXPECT_THROW(picture_grid(torch::zeros({0, 3, 4, 4})), c10::Error);
}

}  // namespace
}  // namespace halftone::picture_test
