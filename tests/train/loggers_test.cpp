// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/train/csv_logger.h"
#include "halftone/train/logger.h"
#include "halftone/train/tensorboard_logger.h"
#include "support/on_devices.h"
#include "support/temp_folder.h"

namespace halftone::loggers_test {
namespace {

namespace fs = std::filesystem;
using test::message_of;
using test::read_text;
using test::TempFolder;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr double kInf = std::numeric_limits<double>::infinity();

TEST(Logger, ANumberOfAStepHasItsKeyInMetricsJsonl) {
  StepMetrics metrics{.step = 7, .epoch = 2, .loss = 1.5, .lr = 0.25};
  metrics.step_ms = 12;
  EXPECT_EQ(metric_values(metrics),
            (std::map<std::string, double>{
                {"epoch", 2}, {"loss", 1.5}, {"lr", 0.25}, {"skipped", 0}, {"step_ms", 12}}));
  metrics.logged = {{"acc", 0.5}};
  metrics.grad_norm = kInf;
  metrics.scale = 1024;
  metrics.skipped = true;
  metrics.overflow = {"w"};
  metrics.underflow_share = 0.125;
  metrics.tokens = 10;
  metrics.tokens_total = 70;
  metrics.tokens_per_s = 5;
  metrics.rss_mib = 300;
  metrics.cuda_mib = 20;
  metrics.weights_mib = 1;
  metrics.gradients_mib = 2;
  metrics.states_mib = 3;
  metrics.tensors_mib = 4;
  EXPECT_EQ(metric_values(metrics), (std::map<std::string, double>{{"acc", 0.5},
                                                                   {"cuda_mib", 20},
                                                                   {"epoch", 2},
                                                                   {"grad_norm", kInf},
                                                                   {"gradients_mib", 2},
                                                                   {"loss", 1.5},
                                                                   {"lr", 0.25},
                                                                   {"rss_mib", 300},
                                                                   {"scale", 1024},
                                                                   {"skipped", 1},
                                                                   {"states_mib", 3},
                                                                   {"step_ms", 12},
                                                                   {"tensors_mib", 4},
                                                                   {"tokens", 10},
                                                                   {"tokens_per_s", 5},
                                                                   {"tokens_total", 70},
                                                                   {"underflow_share", 0.125},
                                                                   {"weights_mib", 1}}));
}

TEST(Logger, ALoggedValueYieldsToTheKeyOfAnother) {
  StepMetrics metrics{.step = 7, .epoch = 2, .loss = 1.5, .lr = 0.25};
  for (const char* name : {"loss", "lr", "step", "epoch", "skipped", "overflow", "rss_mib", "acc"})
    metrics.logged[name] = 99;
  EXPECT_EQ(
      metric_values(metrics),
      (std::map<std::string, double>{
          {"acc", 99}, {"epoch", 2}, {"loss", 1.5}, {"lr", 0.25}, {"skipped", 0}, {"step_ms", 0}}));
}

// guide: CSVLogger, TensorBoardLogger
TEST(CsvLogger, GoesOnWithItsTable) {
  const TempFolder folder;
  CsvLogger logger;
  logger.open(folder.path(), 0);
  for (int step = 1; step <= 3; ++step) logger.log_metrics(step, {{"loss", step * 0.5}});
  logger.log_text(3, "note", "stands nowhere");
  logger.close();
  logger.open(folder.path(), 2);
  logger.log_metrics(3, {{"loss", NAN}, {"acc", 1.0}});
  logger.sync();
  EXPECT_EQ(read_text(folder / "metrics.csv"), "step,loss,acc\n1,0.5,\n2,1,\n3,nan,1\n");
}

TEST(Loggers, NothingIsLoggedBeforeOpen) {
  CsvLogger csv;
  TensorBoardLogger board;
  csv.sync();
  board.sync();
  EXPECT_THROW(csv.log_metrics(1, {}), c10::Error);
  EXPECT_THROW(board.log_metrics(1, {}), c10::Error);
  EXPECT_THROW(board.log_histogram(1, "w", torch::ones(2)), c10::Error);
  const TempFolder folder;
  board.open(folder.path(), 0);
  board.close();
  EXPECT_THROW(board.log_text(1, "a", "b"), c10::Error);
}

std::vector<fs::path> event_files(const TempFolder& folder) {
  const fs::directory_iterator files(folder / "tensorboard");
  return {fs::begin(files), fs::end(files)};
}

TEST(TensorBoardLogger, EachOpenIsAFile) {
  const TempFolder folder;
  TensorBoardLogger logger;
  logger.open(folder.path(), 0);
  logger.log_metrics(1, {{"loss", 0.5}});
  logger.close();
  logger.open(folder.path(), 1);
  EXPECT_EQ(event_files(folder).size(), 2U);
}

TEST(TensorBoardLogger, WarnsOnceOfValuesThatAreNotFinite) {
  std::vector<std::string> said;
  set_log_sink([&](LogLevel, const std::string& message) { said.push_back(message); });
  const TempFolder folder;
  TensorBoardLogger logger;
  logger.open(folder.path(), 0);
  const fs::path path = event_files(folder).front();
  for (int step = 4; step <= 5; ++step)
    logger.log_histogram(step, "w", torch::tensor({1.0, kInf, std::nan("")}));
  const auto bytes = fs::file_size(path);
  logger.log_histogram(5, "v", torch::full({2}, NAN));
  logger.log_histogram(5, "none", torch::empty({0, 3}));
  set_log_sink({});
  EXPECT_EQ(fs::file_size(path), bytes);
  ASSERT_EQ(said.size(), 2U);
  EXPECT_THAT(said[0], HasSubstr("2 of the 3 values of 'w' at step 4 are not finite"));
  EXPECT_THAT(said[1], HasSubstr("2 of the 2 values of 'v'"));
}

class DistributionOf : public test::OnDevices {
 protected:
  Distribution of(const torch::Tensor& values) const { return distribution_of(here(values)); }
};
HALFTONE_ON_DEVICES(DistributionOf);

// The bucket of a value by the header's words.
std::vector<double> counted(const std::vector<double>& values, const std::vector<double>& ends) {
  std::vector<double> counts(ends.size());
  for (const double value : values) {
    if (!std::isfinite(value)) continue;
    std::size_t bucket = 0;
    while (bucket + 1 < ends.size() && value >= ends[bucket]) ++bucket;
    ++counts[bucket];
  }
  return counts;
}

TEST_P(DistributionOf, CountsEachValueOnce) {
  std::vector<double> values;
  for (int i = 0; i < 1001; ++i) values.push_back(std::sin(i * 1.7) * (i % 50) / 8);
  for (const double odd : {kInf, -kInf, static_cast<double>(NAN)}) values.push_back(odd);
  const Distribution found = of(torch::tensor(values, torch::kDouble).view({2, 502}));
  ASSERT_EQ(found.ends.size(), 64U);
  const auto finite = [&](double start, auto use) {
    for (const double value : values)
      if (std::isfinite(value)) start = use(start, value);
    return start;
  };
  EXPECT_EQ(found.count, 1001);
  EXPECT_EQ(found.least, finite(0, [](double a, double b) { return std::min(a, b); }));
  EXPECT_EQ(found.most, finite(0, [](double a, double b) { return std::max(a, b); }));
  EXPECT_NEAR(found.sum, finite(0, [](double a, double b) { return a + b; }), 1e-9);
  EXPECT_NEAR(found.sum_of_squares, finite(0, [](double a, double b) { return a + b * b; }), 1e-9);
  EXPECT_EQ(found.counts, counted(values, found.ends));
  EXPECT_EQ(found.ends.back(), found.most);
  for (std::size_t i = 0; i < 64; ++i)
    EXPECT_NEAR(found.ends[i], found.least + (found.most - found.least) * (i + 1.0) / 64, 1e-12);
}

TEST_P(DistributionOf, AValueAtAnEndBelongsToTheNextBucket) {
  const Distribution found = of(torch::arange(0, 65));  // the ends are 1, 2, ... 64
  EXPECT_EQ(found.counts.front(), 1);
  EXPECT_EQ(found.counts.back(), 2);  // 63 and 64
  EXPECT_EQ(std::accumulate(found.counts.begin(), found.counts.end(), 0.0), 65);
}

TEST_P(DistributionOf, TakesEveryKindOfTensor) {
  for (const torch::Dtype dtype : {torch::kHalf, torch::kBFloat16, torch::kFloat, torch::kLong,
                                   torch::kByte, torch::kFloat8_e4m3fn}) {
    const Distribution found = of(torch::tensor({1.0, 2.0, 4.0}).to(dtype));
    EXPECT_EQ(found.count, 3) << dtype;
    EXPECT_EQ(found.sum, 7) << dtype;
    EXPECT_EQ(found.counts.front(), 1) << dtype;
  }
  EXPECT_EQ(of(torch::tensor({true, false, true})).sum, 2);
  EXPECT_EQ(of(torch::tensor(3.5)).ends, std::vector<double>{3.5});
  EXPECT_EQ(of(torch::ones({4, 6}).t().slice(0, 1, 6, 2).requires_grad_()).counts,
            std::vector<double>{12});
  for (const torch::Tensor& none : {torch::empty({0}), torch::full({3}, NAN)}) {
    EXPECT_EQ(of(none).count, 0);
    EXPECT_TRUE(of(none).ends.empty());
  }
}

TEST_P(DistributionOf, BoundsWhoseDifferenceIsNoNumber) {
  const double most = std::numeric_limits<double>::max();
  const Distribution found = of(torch::tensor({-most, 0.0, most}, torch::kDouble));
  EXPECT_EQ(found.counts.front(), 1);
  EXPECT_EQ(found.counts.back(), 1);
  EXPECT_EQ(std::accumulate(found.counts.begin(), found.counts.end(), 0.0), 3);
  EXPECT_TRUE(std::is_sorted(found.ends.begin(), found.ends.end()));
  const double least = std::numeric_limits<double>::denorm_min();
  const Distribution tiny = of(torch::tensor({0.0, least}, torch::kDouble));
  EXPECT_EQ(tiny.counts, counted({0.0, least}, tiny.ends));
}

TEST(Distribution, OfMoreThanIsCopiedAtOnce) {
  const std::int64_t elements = (std::int64_t{1} << 22U) + 3;
  const Distribution found =
      distribution_of(torch::ones({elements})
                          .index_fill(0, torch::tensor({0, static_cast<int>(elements - 1)}), 3.0));
  EXPECT_EQ(found.count, elements);
  EXPECT_EQ(found.counts.front(), elements - 2);
  EXPECT_EQ(found.counts.back(), 2);
}

TEST(Distribution, OfASparseTensorTakesInItsZeros) {
  const Distribution found = distribution_of(torch::tensor({0.0, 0.0, 5.0}).to_sparse());
  EXPECT_EQ(found.count, 3);
  EXPECT_EQ(found.counts.front(), 2);
}

TEST(Distribution, RefusesWhatHasNoOrder) {
  EXPECT_THROW(distribution_of(torch::ones({2}, torch::kComplexFloat)), c10::Error);
  EXPECT_THROW(distribution_of(torch::Tensor()), c10::Error);
}

}  // namespace
}  // namespace halftone::loggers_test
