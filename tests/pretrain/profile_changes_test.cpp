// SPDX-License-Identifier: Apache-2.0
#include "halftone/pretrain/profile_changes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "halftone/pretrain/config_schema.h"

namespace halftone::profile_changes_test {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::Not;

TrainConfig small_config() {
  TrainConfig config = resolve_config({});
  config.preset = "tiny";
  config.device = "cpu";
  config.precision = "bf16-mixed";
  return config;
}

/// A prediction: a step of `precision` takes the seconds beside it.
RunPlan prediction(const std::vector<std::pair<std::string, double>>& seconds) {
  RunPlan plan;
  for (const auto& [precision, step_s] : seconds)
    plan.recipes.push_back({.precision = precision, .memory = "standard", .step_s = step_s});
  return plan;
}

std::vector<std::string> texts(const std::vector<ConfigChange>& changes) {
  std::vector<std::string> found;
  for (const ConfigChange& change : changes) found.push_back(change.change);
  return found;
}

TEST(ChangesToTry, TriesPrecisionsThatMayBeFaster) {
  const TrainConfig config = small_config();
  const auto near = changes_to_try(
      config, prediction({{"bf16-mixed", 1.0}, {"32-true", 1.4}, {"int8-mixed", 0.9}}));
  EXPECT_THAT(texts(near), Contains("--precision 32-true"));
  const auto found = std::find_if(near.begin(), near.end(), [](const ConfigChange& change) {
    return change.change == "--precision 32-true";
  });
  EXPECT_EQ(found->config.precision, "32-true");
  EXPECT_EQ(found->caveat, "") << "finer numbers cost nothing";
}

TEST(ChangesToTry, LeavesOutWhatIsPredictedToBeMuchSlower) {
  const auto far =
      changes_to_try(small_config(), prediction({{"bf16-mixed", 1.0}, {"32-true", 1.6}}));
  EXPECT_THAT(texts(far), Not(Contains("--precision 32-true")));
}

TEST(ChangesToTry, NeverTriesThePresentPrecisionOrAnEmulatedOne) {
  const std::vector<std::string> found =
      texts(changes_to_try(small_config(), prediction({{"bf16-mixed", 1.0}})));
  EXPECT_THAT(found, Not(Contains("--precision bf16-mixed")));
  EXPECT_THAT(found, Not(Contains(HasSubstr("--precision fp8"))));
}

TEST(ChangesToTry, TakesTheMicroBatchTwiceWithHalfTheAccumulation) {
  TrainConfig config = small_config();
  config.batch_size = 6;
  config.accumulate = 4;
  EXPECT_THAT(texts(changes_to_try(config, prediction({}))),
              Contains("--batch-size 12 --accumulate 2"));
  config.accumulate = 1;
  EXPECT_THAT(texts(changes_to_try(config, prediction({}))), Contains("--batch-size 12"));
}

TEST(ChangesToTry, OffersToUndoWhatCostsTime) {
  TrainConfig config = small_config();
  config.memory.memory = "lean";
  config.memory.rounding = "nearest";
  config.keep_fp32 = {"layers.0.attention"};
  const std::vector<ConfigChange> changes = changes_to_try(config, prediction({}));
  const std::vector<std::string> found = texts(changes);
  const auto standard = std::find_if(changes.begin(), changes.end(), [](const ConfigChange& one) {
    return one.change == "--memory standard";
  });
  ASSERT_NE(standard, changes.end());
  EXPECT_EQ(standard->config.memory.memory, "standard");
  EXPECT_EQ(standard->config.memory.rounding, "nearest");
  EXPECT_THAT(found, Contains("without --keep-fp32"));
  EXPECT_THAT(texts(changes_to_try(small_config(), prediction({}))),
              Not(Contains("--memory standard")));
}

}  // namespace
}  // namespace halftone::profile_changes_test
