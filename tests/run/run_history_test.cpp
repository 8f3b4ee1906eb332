// SPDX-License-Identifier: Apache-2.0
#include "halftone/run/run_history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "halftone/core/error.h"
#include "halftone/report/report_curves.h"
#include "support/temp_folder.h"

namespace halftone::run_history_test {
namespace {

using test::TempFolder;
using test::write_text;
using testing::ElementsAre;

std::string line(std::int64_t step, const std::string& loss, const std::string& more = "") {
  return "{\"step\":" + std::to_string(step) + ",\"loss\":" + loss + more + "}";
}

std::vector<double> losses(const RunHistory& history) {
  std::vector<double> values;
  for (const Point& point : values_of(history.steps(), StepField::kLoss))
    values.push_back(point.value);
  return values;
}

TEST(RunHistory, AddsUpWhatTheLinesSay) {
  RunHistory history;
  history.add_line(line(1, "8.5", R"(,"tokens_total":100,"step_ms":250.0,"rss_mib":300.5)"));
  history.add_line(line(2, "null", R"(,"tokens_total":200,"step_ms":150,"rss_mib":200)"));
  history.add_line(R"({"step":2,"val_loss":7.0,"val_bias":0.1})");
  history.add_line(line(3, "6.25", R"(,"tokens_total":300,"step_ms":100,"cuda_mib":12)"));
  history.add_line(R"({"step":3,"val_loss":7.5})");
  history.add_line(R"({"step":4,"val_accuracy":0.5})");
  const RunTotals& totals = history.totals();
  EXPECT_EQ(totals.steps, 3);
  EXPECT_EQ(totals.broken_losses, 1);
  EXPECT_EQ(totals.first_loss->value, 8.5);
  EXPECT_EQ(totals.last_loss->step, 3);
  EXPECT_EQ(totals.best_validation->step, 2);
  EXPECT_EQ(totals.tokens, 300);
  EXPECT_DOUBLE_EQ(totals.seconds, 0.5);
  EXPECT_EQ(totals.peak_rss_mib, 300.5);
  EXPECT_EQ(totals.peak_cuda_mib, 12);
  EXPECT_EQ(history.unusable_lines(), 0);
  EXPECT_THAT(losses(history), ElementsAre(8.5, testing::IsNan(), 6.25));
  EXPECT_EQ(history.validation().buckets().size(), 2U);
}

TEST(RunHistory, PassesOverWhatIsNoLineOfOurs) {
  RunHistory history;
  history.add_line(line(5, "1"));
  for (const std::string& bad :
       {std::string(""), std::string("{\"step\":6,\"lo"), std::string("[1,2]"), std::string("7"),
        std::string("{}"), std::string("{\"loss\":1}"), line(0, "1"), line(-3, "1"), line(5, "1"),
        line(4, "1"), std::string("{\"step\":6.5,\"loss\":1}"), std::string("{\"step\":\"6\"}"),
        std::string("{\"step\":18446744073709551615,\"loss\":1}"),
        std::string("{\"step\":9223372036854775807,\"loss\":1}"), std::string(100000, '['),
        std::string("{\"step\":6,\"loss\":1e999}"), std::string("\xff\xfe\0x", 4)})
    history.add_line(bad);
  history.add_line(line(6, "2"));
  EXPECT_EQ(history.totals().steps, 2);
  EXPECT_EQ(history.unusable_lines(), 17);
}

TEST(RunHistory, ValuesOfAnotherTypeAreMissing) {
  RunHistory history;
  history.add_line(line(1, "\"8\"", R"(,"lr":[],"grad_norm":1e300,"scale":true,"skipped":3)"));
  history.add_line(
      line(2, "{}", R"(,"skipped":true,"overflow":{"a":1},"rss_mib":-5,"step_ms":-1)"));
  history.add_line(line(3, "1", R"(,"skipped":true,"overflow":[1,null,"w"],"lr":1e-300)"));
  EXPECT_EQ(history.unusable_lines(), 0);
  EXPECT_EQ(history.totals().steps, 3);
  EXPECT_EQ(history.totals().skipped, 2);
  EXPECT_EQ(history.totals().seconds, 0);
  EXPECT_FALSE(history.steps().has(StepField::kGradNorm));
  EXPECT_FALSE(history.steps().has(StepField::kScale));
  EXPECT_EQ(history.steps().buckets().back()[StepField::kLr].most.value, 0);
  EXPECT_THAT(history.first_skips().back().tensors, ElementsAre("w"));
}

std::vector<double> logged(const RunHistory& history, LineKind kind, const std::string& name) {
  std::vector<double> values;
  const auto found = history.logged().find({kind, name});
  if (found == history.logged().end()) return values;
  for (const Point& point : values_of(found->second.buckets())) values.push_back(point.value);
  return values;
}

TEST(RunHistory, KeepsEveryOtherNumberByItsNameAndLine) {
  RunHistory history;
  history.add_line(line(1, "4", R"(,"epoch":1,"acc":0.25,"tokens":8,"tokens_total":8,"lr":1)"));
  history.add_line(line(2, "3", R"(,"acc":0.5,"name":"x","ok":true,"list":[1],"never":null)"));
  history.add_line(R"({"step":2,"acc":0.375})");
  history.add_line(R"({"step":2,"val_loss":5,"val_acc":0.75,"epoch":1})");
  history.add_line(line(3, "2", R"(,"acc":null,"underflow_share":0.125)"));
  history.add_line(line(4, "2"));
  history.add_line(line(5, "2", R"(,"acc":1e300)"));
  history.add_line(line(6, "2", R"(,"acc":1)"));
  history.add_line(R"({"step":6,"val_loss":null,"val_acc":null})");
  EXPECT_EQ(history.unusable_lines(), 0);
  EXPECT_THAT(logged(history, LineKind::kStep, "acc"),
              ElementsAre(0.25, 0.5, testing::IsNan(), testing::IsNan(), 1));
  EXPECT_THAT(logged(history, LineKind::kBetween, "acc"), ElementsAre(0.375));
  EXPECT_THAT(logged(history, LineKind::kBetween, "val_acc"), ElementsAre(0.75, testing::IsNan()));
  EXPECT_THAT(logged(history, LineKind::kStep, "underflow_share"), ElementsAre(0.125));
  EXPECT_THAT(logged(history, LineKind::kBetween, "epoch"), ElementsAre(1));
  EXPECT_EQ(history.logged().size(), 5U);
  EXPECT_EQ(history.validation().buckets().size(), 2U);
  EXPECT_EQ(history.totals().best_validation->value, 5);
}

TEST(RunHistory, ALineThatStandsTwiceIsPassedOver) {
  RunHistory history;
  history.add_line(line(1, "4"));
  for (const char* text : {R"({"step":3,"val_acc":0.5})", R"({"step":3,"val_acc":0.25})",
                           R"({"step":2,"val_acc":0.125})", R"({"step":3,"val_loss":1})",
                           R"({"step":3,"val_loss":0.5})"})
    history.add_line(text);
  EXPECT_EQ(history.unusable_lines(), 3);
  EXPECT_THAT(logged(history, LineKind::kBetween, "val_acc"), ElementsAre(0.5));
  EXPECT_EQ(history.totals().best_validation->value, 1);
}

TEST(RunHistory, KeepsAsManyNamesAsItHasRoomFor) {
  RunHistory history;
  for (int step = 1; step <= 3; ++step) {
    std::string more;
    for (int i = 0; i < 70; ++i) more += ",\"v" + std::to_string(100 + i) + "\":1";
    history.add_line(line(step, "1", more + ",\"" + std::string(201, 'n') + "\":1"));
    history.add_line("{\"step\":" + std::to_string(step) + ",\"v169\":1}");
  }
  EXPECT_EQ(history.logged().size(), RunHistory::kKeptNames);
  EXPECT_EQ(history.names_left_out(), 70U - 64 + 1 + 1);
  EXPECT_THAT(logged(history, LineKind::kStep, "v100"), ElementsAre(1, 1, 1));
}

TEST(RunHistory, NamesWithoutEndTakeBoundedRoom) {
  RunHistory history;
  for (int step = 1; step <= 12'000; ++step)
    history.add_line(line(step, "1", ",\"n" + std::to_string(step) + "\":1"));
  EXPECT_EQ(history.logged().size(), RunHistory::kKeptNames);
  EXPECT_EQ(history.names_left_out(), 10'000U);
}

TEST(RunHistory, KeepsTheFirstAndTheLastSkippedSteps) {
  RunHistory history;
  for (int step = 1; step <= 100; ++step)
    history.add_line(line(step, "1",
                          R"(,"scale":2.0,"skipped":true,"overflow":["a","b","c","d","e)" +
                              std::to_string(step) + "\"]"));
  EXPECT_EQ(history.totals().skipped, 100);
  ASSERT_EQ(history.first_skips().size(), RunHistory::kKeptSkips);
  ASSERT_EQ(history.last_skips().size(), RunHistory::kKeptSkips);
  EXPECT_EQ(history.first_skips().front().step, 1);
  EXPECT_EQ(history.last_skips().back().step, 100);
  EXPECT_EQ(history.last_skips().front().step, 86);
  EXPECT_THAT(history.first_skips().front().tensors, ElementsAre("a", "b", "c"));
  EXPECT_EQ(history.first_skips().front().tensor_count, 5);
  EXPECT_EQ(history.overflows().at("a"), 100);
  EXPECT_EQ(history.overflows().at("e7"), 1);
}

TEST(StepHistory, ALongRunKeepsItsExtremesAndItsEnds) {
  constexpr int kSteps = 100'003;
  StepHistory history;
  StepNumbers numbers;
  double sum = 0;
  for (int step = 1; step <= kSteps; ++step) {
    numbers.step = step;
    numbers.skipped = step == 50'000;
    double loss = 5 + std::sin(step * 0.37);
    if (step == 33'333) loss = 99;
    if (step == 77'777) loss = -99;
    if (step == 1) loss = 5.125;
    if (step == kSteps) loss = 5.25;
    sum += loss;
    numbers[StepField::kLoss] = loss;
    history.add(numbers);
  }
  EXPECT_LE(history.buckets().size(), StepHistory::kMaxBuckets);
  EXPECT_GT(history.buckets().size(), StepHistory::kMaxBuckets / 3);
  const std::vector<Point> points = values_of(history, StepField::kLoss);
  EXPECT_LE(points.size(), 2 * StepHistory::kMaxBuckets + 2);
  const auto at = [&](double step) {
    const auto found = std::find_if(points.begin(), points.end(),
                                    [&](const Point& point) { return point.step == step; });
    return found == points.end() ? NAN : found->value;
  };
  EXPECT_EQ(at(33'333), 99);
  EXPECT_EQ(at(77'777), -99);
  EXPECT_EQ(at(1), 5.125);
  EXPECT_EQ(at(kSteps), 5.25);
  EXPECT_TRUE(std::is_sorted(points.begin(), points.end(),
                             [](const Point& a, const Point& b) { return a.step < b.step; }));
  double kept = 0;
  std::int64_t count = 0;
  for (const StepBucket& bucket : history.buckets()) {
    kept += bucket[StepField::kLoss].sum;
    count += bucket.steps;
  }
  EXPECT_NEAR(kept, sum, 1e-6);
  EXPECT_EQ(count, kSteps);
  ASSERT_EQ(skipped_steps(history).size(), 1U);
  EXPECT_NEAR(skipped_steps(history).front(), 50'000, history.width());
}

TEST(ValueHistory, ALongOneKeepsItsExtremesAndItsEnds) {
  constexpr int kValues = 10'001;
  ValueHistory history;
  for (int i = 1; i <= kValues; ++i) {
    double value = i == 1 ? 0.25 : i == kValues ? 0.75 : 0.5;
    if (i == 3'333) value = 99;
    if (i == 7'777) value = -99;
    history.add({10 * i, value});
  }
  EXPECT_LE(history.buckets().size(), ValueHistory::kMaxBuckets);
  EXPECT_GT(history.buckets().size(), ValueHistory::kMaxBuckets / 3);
  EXPECT_EQ(history.last_step(), 10 * kValues);
  const std::vector<Point> points = values_of(history.buckets());
  EXPECT_EQ(points.front().value, 0.25);
  EXPECT_EQ(points.back().value, 0.75);
  const auto [least, most] =
      std::minmax_element(points.begin(), points.end(),
                          [](const Point& a, const Point& b) { return a.value < b.value; });
  EXPECT_EQ(least->step, 77'770);
  EXPECT_EQ(most->step, 33'330);
  std::int64_t count = 0;
  for (const ValueBucket& bucket : history.buckets()) count += bucket.summary.count;
  EXPECT_EQ(count, kValues);
}

TEST(ValueHistory, AShortOneKeepsEveryValueAndItsGaps) {
  ValueHistory history;
  EXPECT_TRUE(history.empty());
  const int kept = static_cast<int>(ValueHistory::kMaxBuckets);
  for (int i = 1; i <= kept; ++i) history.add({3 * i, i % 7 == 0 ? NAN : i});
  const std::vector<Point> points = values_of(history.buckets());
  ASSERT_EQ(std::ssize(points), kept);
  for (int i = 1; i <= kept; ++i) {
    const Point& point = points[static_cast<std::size_t>(i - 1)];
    EXPECT_EQ(point.step, 3 * i);
    EXPECT_TRUE(i % 7 == 0 ? std::isnan(point.value) : point.value == i) << i;
  }
}

TEST(StepHistory, AShortRunKeepsEveryStep) {
  StepHistory history;
  StepNumbers numbers;
  for (int step = 1; step <= static_cast<int>(StepHistory::kMaxBuckets); ++step) {
    numbers.step = step;
    numbers[StepField::kLoss] = step * step % 97;
    history.add(numbers);
  }
  const std::vector<Point> points = values_of(history, StepField::kLoss);
  ASSERT_EQ(points.size(), StepHistory::kMaxBuckets);
  for (const Point& point : points)
    EXPECT_EQ(point.value, static_cast<int>(point.step * point.step) % 97);
}

TEST(ReportCurves, AStraightLineStaysSoWhenSmoothedButForItsEnd) {
  StepHistory history;
  StepNumbers numbers;
  for (int step = 1; step <= 200; ++step) {
    numbers.step = step;
    numbers[StepField::kLoss] = 3.0 * step;
    history.add(numbers);
  }
  const std::vector<ValueBucket> losses = history.values(StepField::kLoss);
  ASSERT_EQ(smoothing_reach(losses), 4);
  const std::vector<Point> points = smoothed(losses);
  for (std::size_t i = 0; i + 4 < points.size(); ++i)
    EXPECT_DOUBLE_EQ(points[i].value, 3 * points[i].step);
  EXPECT_DOUBLE_EQ(points.back().value, 3 * (196 + 200) / 2.0);  // the last five
}

TEST(ReportCurves, LayersLieOnEachOther) {
  StepHistory history;
  StepNumbers numbers;
  for (int step = 1; step <= 4; ++step) {
    numbers.step = step;
    numbers[StepField::kWeightsMib] = 10;
    numbers[StepField::kTensorsMib] = step == 3 ? StepNumbers::kNone : 5.0 * step;
    history.add(numbers);
  }
  const auto layers = stacked(history, {StepField::kWeightsMib, StepField::kTensorsMib});
  ASSERT_EQ(layers.size(), 2U);
  ASSERT_EQ(layers[0].size(), 2U);  // level: its ends say it all
  EXPECT_EQ(layers[0].back().step, 4);
  std::vector<double> upper;
  for (const Point& point : layers[1]) upper.push_back(point.value);
  EXPECT_THAT(upper, ElementsAre(15, 20, 10, 30));
}

TEST(MetricsReader, ReadsOnWhereItStopped) {
  const TempFolder folder;
  const auto path = folder / "metrics.jsonl";
  write_text(path, line(1, "3") + "\n" + line(2, "2") + "\n{\"step\":3,");
  MetricsReader reader(path);
  reader.read_on();
  EXPECT_EQ(reader.history().totals().steps, 2);
  EXPECT_TRUE(reader.ends_torn());
  std::ofstream(path, std::ios::app) << "\"loss\":1}\n" << line(4, "0.5") << '\n';
  reader.read_on();
  EXPECT_EQ(reader.history().totals().steps, 4);
  EXPECT_EQ(reader.history().unusable_lines(), 0);
  EXPECT_FALSE(reader.ends_torn());
  write_text(path, line(1, "9") + "\n");  // begun anew
  reader.read_on();
  EXPECT_THAT(losses(reader.history()), ElementsAre(9));
}

TEST(MetricsReader, PassesOverALineThatIsTooLong) {
  const TempFolder folder;
  const auto path = folder / "metrics.jsonl";
  write_text(path, line(1, "3") + "\n" + std::string(5'000'000, 'x') + "\n" + line(2, "2") + "\n");
  MetricsReader reader(path);
  reader.read_on();
  EXPECT_EQ(reader.history().totals().steps, 2);
  EXPECT_EQ(reader.history().unusable_lines(), 1);
}

TEST(MetricsReader, AMissingFileIsTheUsersMistake) {
  const TempFolder folder;
  EXPECT_THROW(MetricsReader(folder / "none.jsonl").read_on(), UserError);
  EXPECT_THROW(MetricsReader(folder.path()).read_on(), UserError);
}

}  // namespace
}  // namespace halftone::run_history_test
