// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/loaded_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/pretrain/pretrain.h"
#include "support/message_of.h"
#include "support/temp_folder.h"

namespace halftone::loaded_step_test {
namespace {

using testing::HasSubstr;

class LoadedStepTest : public testing::Test {
 protected:
  LoadedStepTest() {
    std::ofstream text(folder / "text.txt");
    for (int i = 0; i < 200; ++i) text << "the moon rises over the river " << i * 7919 << "\n\n";
  }

  std::vector<ConfigAssignment> assignments() const {
    return {{"preset", std::string("tiny"), "test"},
            {"data", std::vector<std::string>{(folder / "text.txt").string()}, "test"},
            {"batch_size", std::int64_t{2}, "test"},
            {"seq_len", std::int64_t{32}, "test"},
            {"precision", std::string("bf16-mixed"), "test"},
            {"save_every", std::int64_t{3}, "test"},
            {"keep_checkpoints", std::int64_t{5}, "test"},
            {"max_steps", std::int64_t{7}, "test"},
            {"out", run(), "test"}};
  }
  std::string run() const { return (folder / "run").string(); }

  /// The run's losses, by step from 1.
  std::vector<double> train() const {
    pretrain(resolve_config(assignments()));
    std::vector<double> losses;
    std::ifstream metrics(folder / "run" / "metrics.jsonl");
    for (std::string line; std::getline(metrics, line);)
      losses.push_back(nlohmann::json::parse(line).at("loss"));
    return losses;
  }

  static double loss_of(LoadedStep& loaded) {
    MixedPrecision precision(parse_precision(loaded.config().precision), {}, torch::kCPU);
    precision.convert_module(loaded.module().network());
    return loaded.step().loss(precision).item<double>();
  }

  test::TempFolder folder;
};

TEST_F(LoadedStepTest, IsTheNextStepOfTheRun) {
  const std::vector<double> losses = train();
  for (const std::int64_t step : {3, 6}) {
    LoadedStep loaded(run(), changed_run_config(run(), {}), step);
    EXPECT_EQ(loaded.optimizer_step(), step);
    EXPECT_FLOAT_EQ(static_cast<float>(loss_of(loaded)),
                    static_cast<float>(losses.at(static_cast<std::size_t>(step))));
  }
  EXPECT_EQ(LoadedStep(run(), changed_run_config(run(), {}), std::nullopt).optimizer_step(), 7);
  EXPECT_THAT(test::message_of<UserError>(
                  [&] { LoadedStep(run(), changed_run_config(run(), {}), std::int64_t{4}); }),
              HasSubstr("has no checkpoint of step 4; it has those of 3, 6, 7"));
}

TEST_F(LoadedStepTest, OfAConfigurationIsTheFirstStep) {
  const double first = train().front();
  LoadedStep loaded(resolve_config(assignments()));
  EXPECT_EQ(loaded.optimizer_step(), 0);
  EXPECT_FLOAT_EQ(static_cast<float>(loss_of(loaded)), static_cast<float>(first));
}

TEST_F(LoadedStepTest, TakesOtherBatchesWhereTheyAreAskedFor) {
  train();
  LoadedStep loaded(
      run(), changed_run_config(run(), {{"batch_size", std::int64_t{5}, "--batch-size"}}), 3);
  EXPECT_EQ(loaded.rows(), 5 * 32);
  EXPECT_TRUE(std::isfinite(loss_of(loaded)));
}

}  // namespace
}  // namespace halftone::loaded_step_test
