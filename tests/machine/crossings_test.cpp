// SPDX-License-Identifier: Apache-2.0
#include "halftone/machine/crossings.h"

#include <gtest/gtest.h>
#include <torch/utils.h>

#include <cmath>

namespace halftone::crossings_test {
namespace {

LayerPoint point(std::int64_t rows, std::int64_t width, double bf16, double int8) {
  return {.rows = rows,
          .width = width,
          .speeds = {{ComputeType::kFloat32, 2.0, 0},
                     {ComputeType::kBFloat16, 2.0 * bf16, 0},
                     {ComputeType::kInt8, 2.0 * int8, 0}}};
}

Crossings crossings_of(std::vector<LayerPoint> by_width, std::vector<LayerPoint> by_rows = {}) {
  return {.by_width = std::move(by_width), .by_rows = std::move(by_rows)};
}

TEST(Crossings, AreTheLeastSizeFromWhichOnItPays) {
  const Crossings crossings =
      crossings_of({point(2048, 64, 1.4, 2.0), point(2048, 128, 0.95, 1.5),
                    point(2048, 256, 0.7, 1.0), point(2048, 512, 0.5, 0.6)},
                   {point(8, 512, 1.1, 3.0), point(64, 512, 0.9, 1.2), point(512, 512, 0.5, 0.95)});
  EXPECT_EQ(width_that_pays(crossings, ComputeType::kBFloat16), 256);
  EXPECT_EQ(width_that_pays(crossings, ComputeType::kInt8), 512);
  EXPECT_EQ(rows_that_pay(crossings, ComputeType::kBFloat16), 64);
  EXPECT_EQ(rows_that_pay(crossings, ComputeType::kInt8), std::nullopt);
  EXPECT_EQ(width_that_pays(crossings, ComputeType::kFloat16), std::nullopt);  // not measured
  EXPECT_TRUE(std::isnan(share_of_fp32(crossings.by_width[0], ComputeType::kFloat16)));
}

TEST(Crossings, AnIslandDoesNotCount) {
  const Crossings crossings = crossings_of(
      {point(2048, 64, 0.5, 0.5), point(2048, 128, 1.2, 0.8), point(2048, 256, 0.5, 0.8)});
  EXPECT_EQ(width_that_pays(crossings, ComputeType::kBFloat16), 256);
  EXPECT_EQ(width_that_pays(crossings, ComputeType::kInt8), 64);
  EXPECT_EQ(width_that_pays({}, ComputeType::kInt8), std::nullopt);
}

TEST(Crossings, ParametersAreThoseOfEightLayers) {
  EXPECT_DOUBLE_EQ(parameters_of_width(512), 12.0 * 512 * 512 * 8);
}

TEST(Crossings, AreMeasuredWithinTheirTime) {
  torch::set_num_threads(1);
  double last = 0;
  const Crossings crossings =
      measure_crossings({.widths = {8, 16, 24, 32},
                         .rows = {2, 4},
                         .formats = {ComputeType::kFloat32, ComputeType::kInt8},
                         .seconds_of_widths = 0.0,
                         .progress = [&](double share) {
                           EXPECT_GT(share, last);
                           last = share;
                         }});
  ASSERT_EQ(crossings.by_width.size(), 3U);  // the least, at no time
  EXPECT_EQ(crossings.by_width[2].width, 24);
  EXPECT_EQ(crossings.by_width[2].rows, crossings.rows);
  ASSERT_EQ(crossings.by_rows.size(), 2U);
  EXPECT_EQ(crossings.by_rows[1].rows, 4);
  for (const LayerPoint& point : crossings.by_rows) {
    ASSERT_EQ(point.speeds.size(), 2U);
    EXPECT_GT(share_of_fp32(point, ComputeType::kInt8), 0.0);
  }
  EXPECT_LE(last, 1.0);
}

}  // namespace
}  // namespace halftone::crossings_test
