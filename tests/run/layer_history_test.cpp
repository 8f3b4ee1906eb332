// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/layer_history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "halftone/run/run_history.h"

namespace halftone::layer_history_test {
namespace {

using testing::ElementsAre;
using testing::IsNan;

const LayerSeriesName kNorm{LayerStatistic::kGradNorm, "wq"};
const LayerSeriesName kRatio{LayerStatistic::kUpdateRatio, "wq"};

TEST(LayerMetrics, KeysLeadBackToWhatTheyWereMadeOf) {
  for (const LayerStatistic statistic : kLayerStatistics) {
    const std::string key = layer_key(statistic, "layers.0/odd.weight");
    const auto parsed = parse_layer_key(key);
    ASSERT_TRUE(parsed) << key;
    EXPECT_EQ(parsed->statistic, statistic);
    EXPECT_EQ(parsed->parameter, "layers.0/odd.weight");
  }
  for (const char* other : {"grad_norm", "grad_norm/", "lr/0", "/x", "val_loss", "grad_norms/x"})
    EXPECT_FALSE(parse_layer_key(other)) << other;
}

TEST(LayerHistory, HasAColumnForEachSampledStep) {
  LayerHistory history;
  history.add(10, kNorm, 1.0);
  history.add(10, kRatio, NAN);  // begins with a number
  history.add(20, kNorm, 2.0);
  history.add(20, kRatio, 0.5);
  history.add(30, kNorm, NAN);
  ASSERT_EQ(history.columns().size(), 3U);
  EXPECT_EQ(history.columns()[1].first_step, 20);
  EXPECT_THAT(history.series().at(kNorm), ElementsAre(1.0F, 2.0F, IsNan()));
  EXPECT_THAT(history.series().at(kRatio), ElementsAre(IsNan(), 0.5F));
}

TEST(LayerHistory, NeighboursShareAColumnThatKeepsTheLargest) {
  LayerHistory history;
  constexpr std::int64_t kSteps = 1000;
  for (std::int64_t step = 1; step <= kSteps; ++step)
    history.add(step, kNorm, step == 700 ? 99.0 : 1.0);
  EXPECT_LE(history.columns().size(), LayerHistory::kMaxColumns);
  EXPECT_GE(history.columns().size(), LayerHistory::kMaxColumns / 2);
  EXPECT_EQ(history.columns().front().first_step, 1);
  EXPECT_EQ(history.columns().back().last_step, kSteps);
  const LayerHistory::Series& series = history.series().at(kNorm);
  ASSERT_EQ(series.size(), history.columns().size());
  for (std::size_t i = 0; i < series.size(); ++i) {
    const LayerHistory::Column& column = history.columns()[i];
    EXPECT_EQ(series[i], column.first_step <= 700 && 700 <= column.last_step ? 99.0F : 1.0F);
    if (i > 0) {
      EXPECT_EQ(column.first_step, history.columns()[i - 1].last_step + 1);
    }
  }
}

TEST(LayerHistory, KeepsSoManySeries) {
  LayerHistory history;
  for (std::size_t i = 0; i < LayerHistory::kMaxSeries; ++i)
    ASSERT_TRUE(history.add(1, {LayerStatistic::kGradMax, std::to_string(i)}, 1.0));
  EXPECT_FALSE(history.add(1, kNorm, 1.0));
  EXPECT_TRUE(history.add(2, {LayerStatistic::kGradMax, "7"}, 2.0));
}

TEST(LayerHistory, RunHistoryTellsLayersFromOtherLoggedValues) {
  RunHistory history;
  history.add_line(R"({"step":1,"loss":2.0,"acc":0.5,"grad_norm/wq":3.0,"update_ratio/wq":null})");
  history.add_line(R"({"step":2,"loss":2.0,"grad_norm/wq":4.0,"grad_norm":5.0})");
  history.add_line(R"({"step":2,"val_loss":2.0,"grad_norm/wq":7.0})");  // of no step
  EXPECT_THAT(history.layers().series().at(kNorm), ElementsAre(3.0F, 4.0F));
  EXPECT_EQ(history.layers().series().size(), 1U);
  ASSERT_EQ(history.logged().size(), 2U);
  EXPECT_TRUE(history.logged().contains({LineKind::kStep, "acc"}));
  EXPECT_TRUE(history.logged().contains({LineKind::kBetween, "grad_norm/wq"}));
  EXPECT_EQ(history.names_left_out(), 0U);
}

}  // namespace
}  // namespace halftone::layer_history_test
