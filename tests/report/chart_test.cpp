// SPDX-License-Identifier: Apache-2.0
#include "halftone/report/chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace halftone::chart_test {
namespace {

using testing::HasSubstr;
using testing::Not;

// 508 x 230, of which 52 to the left, 58 to the right, 14 above and 30 below are for labels: the
// curve has 398 x 186 from (52, 14) to (450, 200).
Chart narrow_chart() {
  return {.title = "Loss",
          .unit = "nats",
          .is_wide = false,
          .x = Axis::steps(1, 5, 5),
          .y = Axis::linear(0, 10, 5),
          .areas = {},
          .curves = {},
          .marks = {},
          .mark_name = {}};
}

TEST(Chart, PointsStandWhereTheAxesSay) {
  Chart chart = narrow_chart();
  chart.curves.push_back({"", "c1", CurveStyle::kStrong, {{1, 0}, {3, 5}, {5, 10}}, ""});
  const std::string html = figure_of(chart);
  EXPECT_THAT(html, HasSubstr(R"(d="M52.0 200.0h0L251.0 107.0L450.0 14.0")"));
  EXPECT_THAT(html, HasSubstr(R"(<text class="ytick" x="44" y="162.8" dy=".35em">2</text>)"));
  EXPECT_THAT(html, HasSubstr(R"(<text class="xtick" x="151.5" y="218">2</text>)"));
  EXPECT_THAT(html, HasSubstr(R"(<text class="value" x="458.0" y="14.0" dy=".35em">10</text>)"));
}

TEST(Chart, AGapBreaksTheLineAndALonePointStays) {
  Chart chart = narrow_chart();
  chart.curves.push_back(
      {"", "c1", CurveStyle::kStrong, {{1, 0}, {2, NAN}, {3, 5}, {4, NAN}, {5, NAN}}, ""});
  EXPECT_THAT(figure_of(chart), HasSubstr(R"(d="M52.0 200.0h0M251.0 107.0h0")"));
  EXPECT_THAT(figure_of(chart), HasSubstr(R"(<text class="value" x="259.0" y="107.0")"));
}

TEST(Chart, StairsKeepAValueUntilTheNext) {
  Chart chart = narrow_chart();
  chart.curves.push_back({"", "c1", CurveStyle::kStairs, {{1, 0}, {3, 5}, {5, 5}}, "half"});
  EXPECT_THAT(figure_of(chart), HasSubstr(R"(d="M52.0 200.0h0H251.0V107.0H450.0V107.0")"));
  EXPECT_THAT(figure_of(chart), HasSubstr(">half</text>"));
}

TEST(Chart, AnAreaLiesBetweenItsCurves) {
  Chart chart = narrow_chart();
  chart.areas.push_back({"weights", "c2", {{1, 0}, {5, 0}}, {{1, 5}, {3, 10}, {5, 5}}});
  EXPECT_THAT(
      figure_of(chart),
      HasSubstr(
          R"(class="area c2" d="M52.0 107.0L251.0 14.0L450.0 107.0L450.0 200.0L52.0 200.0Z")"));
}

TEST(Chart, MarksStandAtTheLowerEdge) {
  Chart chart = narrow_chart();
  EXPECT_THAT(figure_of(chart), Not(HasSubstr("class=\"mark\"")));
  chart.marks = {3, 5};
  chart.mark_name = "skipped";
  EXPECT_THAT(figure_of(chart),
              HasSubstr(R"(<path class="mark" d="M251.0 200v-9M450.0 200v-9"/>)"));
  EXPECT_THAT(figure_of(chart), HasSubstr("skipped</li>"));
}

TEST(Chart, WhatIsOutsideIsDrawnAtTheEdge) {
  Chart chart = narrow_chart();
  chart.curves.push_back({"", "c1", CurveStyle::kStrong, {{0, -1}, {9, 1e99}}, ""});
  EXPECT_THAT(figure_of(chart), HasSubstr(R"(d="M52.0 200.0h0L450.0 14.0")"));
}

TEST(Chart, NamesAreEscaped) {
  Chart chart = narrow_chart();
  chart.title = "<Loss & \"more\">";
  chart.curves.push_back({"a<b", "c1", CurveStyle::kDots, {{1, 0}}, "'"});
  const std::string html = figure_of(chart);
  EXPECT_THAT(html, HasSubstr("<h3>&lt;Loss &amp; &quot;more&quot;&gt;"));
  EXPECT_THAT(html, HasSubstr("a&lt;b</li>"));
  EXPECT_THAT(html, HasSubstr(">&#39;</text>"));
}

}  // namespace
}  // namespace halftone::chart_test
