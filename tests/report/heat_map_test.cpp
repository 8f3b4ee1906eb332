// SPDX-License-Identifier: Apache-2.0
#include "halftone/report/heat_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "halftone/report/layer_maps.h"

namespace halftone::heat_map_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

// 508 wide, of which 168 to the left and 52 to the right are for labels: 288 for the columns. A row
// is 13 high, the first begins at 4.
HeatMap two_columns(HeatScale scale, std::vector<HeatRow> rows) {
  return {.title = "Norm",
          .unit = "log",
          .color = "c1",
          .scale = scale,
          .is_wide = false,
          .x = Axis::steps(1, 3, 3),
          .columns = {{1, 1}, {3, 3}},
          .rows = std::move(rows)};
}

TEST(HeatMap, CellsStandWhereTheirStepsAndRowsAre) {
  const std::string html =
      figure_of(two_columns(HeatScale::kLog, {{"a", {1.0, 100.0}}, {"b", {NAN, 1.0}}}));
  EXPECT_THAT(html, HasSubstr(R"(<path class="heat c1 h7" d="M312.0 4.5H456.0v12H312.0z"/>)"));
  EXPECT_THAT(html,
              HasSubstr(R"(class="heat c1 h0" d="M168.0 4.5H312.0v12H168.0zM312.0 17.5H456.0)"));
  EXPECT_THAT(html, HasSubstr(R"(y="10.5" dy=".35em">100</text>)"));  // the last value
  EXPECT_THAT(html, HasSubstr("<title>a</title>a</text>"));
  EXPECT_THAT(html, HasSubstr(R"(<p class="shades">1 <i class="shade c1 h0">)"));
}

TEST(HeatMap, NeighboursOfOneColourAreOneRectangle) {
  const std::string html = figure_of(two_columns(HeatScale::kLog, {{"a", {5.0, 5.0}}}));
  EXPECT_THAT(html, HasSubstr(R"(d="M168.0 4.5H456.0v12H168.0z")"));
}

TEST(HeatMap, ASharesScaleBeginsAtZeroWhichIsNotDrawn) {
  const std::string html =
      figure_of(two_columns(HeatScale::kShare, {{"a", {0.0, 0.5}}, {"b", {0.3, 0.0}}}));
  EXPECT_THAT(html, HasSubstr(R"(h7" d="M312.0 4.5H456.0v12H312.0z")"));
  EXPECT_THAT(html, HasSubstr(R"(h4" d="M168.0 17.5H312.0v12H168.0z")"));  // 0.6 of the largest
  EXPECT_THAT(html, HasSubstr(">50%</text>"));
  EXPECT_THAT(html, HasSubstr(">0%</text>"));
}

TEST(HeatMap, ALongNameKeepsItsEnd) {
  const std::string html = figure_of(
      two_columns(HeatScale::kLog, {{"encoder.blocks.11.attention.<projection>", {1.0}}}));
  EXPECT_THAT(html, HasSubstr("<title>encoder.blocks.11.attention.&lt;projection&gt;</title>…"));
  EXPECT_THAT(html, HasSubstr(".attention.&lt;projection&gt;</text>"));
  EXPECT_THAT(figure_of(two_columns(HeatScale::kLog, {})), Not(HasSubstr("nan")));
}

TEST(LayerMaps, NumbersInPathsCount) {
  EXPECT_TRUE(stands_before("layers.2.wq", "layers.10.wq"));
  EXPECT_FALSE(stands_before("layers.10.wq", "layers.2.wq"));
  EXPECT_TRUE(stands_before("layers.2", "layers.2.wq"));
  EXPECT_TRUE(stands_before("head", "layers.2"));
  EXPECT_TRUE(stands_before("l.02", "l.3"));
  EXPECT_FALSE(stands_before("a.1", "a.1"));
  EXPECT_NE(stands_before("a.01", "a.1"), stands_before("a.1", "a.01"));
}

TEST(LayerMaps, RowsAreModulesThatFit) {
  EXPECT_THAT(modules_of({"layers.0.wq.weight", "layers.0.wq.bias", "norm.weight", "scale"}),
              ElementsAre("layers.0.wq", "layers.0.wq", "norm", "scale"));
  std::vector<std::string> many;
  for (int layer = 0; layer < 30; ++layer)
    for (const char* part : {"wq", "wk", "wv"})
      many.push_back("layers." + std::to_string(layer) + ".attention." + part + ".weight");
  const std::vector<std::string> modules = modules_of(many);
  EXPECT_EQ(modules[0], "layers.0.attention");
  EXPECT_EQ(modules[89], "layers.29.attention");
}

TEST(LayerMaps, ARowIsTheNormOfItsParametersOrTheirWorst) {
  LayerHistory layers;
  layers.add(1, {LayerStatistic::kGradNorm, "wq.weight"}, 3.0);
  layers.add(1, {LayerStatistic::kGradNorm, "wq.bias"}, 4.0);
  layers.add(1, {LayerStatistic::kGradMax, "wq.weight"}, 3.0);
  layers.add(1, {LayerStatistic::kGradMax, "wq.bias"}, 4.0);
  layers.add(1, {LayerStatistic::kUnderflowShare, "wq.bias"}, 0.0);
  const std::vector<HeatMap> maps = layer_maps(layers);
  ASSERT_EQ(maps.size(), 2U);  // no underflow, no picture
  EXPECT_EQ(maps[0].title, "Gradient norm");
  ASSERT_EQ(maps[0].rows.size(), 1U);
  EXPECT_EQ(maps[0].rows[0].name, "wq");
  EXPECT_DOUBLE_EQ(maps[0].rows[0].cells.at(0), 5.0);
  EXPECT_DOUBLE_EQ(maps[1].rows[0].cells.at(0), 4.0);
  EXPECT_TRUE(layer_maps({}).empty());
}

}  // namespace
}  // namespace halftone::heat_map_test
