// SPDX-License-Identifier: Apache-2.0
// The order of recipes and the choice among them, for machines whose speeds are made up.
#include "halftone/plan/run_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>

#include "halftone/core/error.h"
#include "support/message_of.h"

namespace halftone::run_plan_test {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

PlanRequest request_for(std::uint64_t budget) {
  return {.model = {.dim = 256, .n_layers = 4, .n_heads = 4, .vocab_size = 4000},
          .shape = {.batch_size = 4, .predictions = 128},
          .precision = "32-true",
          .memory = {},
          .budget_bytes = budget};
}

/// Memory so fast that matmuls alone make the time.
MachineSpeed speeds(double fp32, double bf16, double fp16, double int8) {
  return {.matmuls = {{ComputeType::kFloat32, fp32},
                      {ComputeType::kBFloat16, bf16},
                      {ComputeType::kFloat16, fp16},
                      {ComputeType::kInt8, int8},
                      {ComputeType::kFloat8Rows, bf16},
                      {ComputeType::kFloat8, bf16}},
          .memory = 1e18};
}

std::string name(const RecipePlan& recipe) { return recipe.precision + " " + recipe.memory; }

std::string choice_at(const MachineSpeed& speed, std::uint64_t budget = kUnlimited) {
  const RunPlan plan = plan_run(request_for(budget), speed, 0);
  return plan.choice ? name(*plan.choice) : "none";
}

TEST(RunPlan, ChoosesTheFastestFormat) {
  EXPECT_EQ(choice_at(speeds(1e11, 3e11, 1e11, 1e11)), "bf16-mixed standard");
  EXPECT_EQ(choice_at(speeds(1e11, 1e11, 3e11, 1e11)), "16-mixed standard");
  EXPECT_EQ(choice_at(speeds(1e11, 1e11, 1e11, 9e11)), "int8-mixed standard");
}

TEST(RunPlan, ChoosesTheFinestOfThoseThatAreAsFast) {
  EXPECT_EQ(choice_at(speeds(1e11, 1e11, 1e11, 1e11)), "32-true standard");
  // 2 % is noise, 20 % is not.
  EXPECT_EQ(choice_at(speeds(1e11, 1.02e11, 1.02e11, 1.02e11)), "32-true standard");
  EXPECT_EQ(choice_at(speeds(1e11, 1.2e11, 1e11, 1e11)), "bf16-mixed standard");
  EXPECT_EQ(choice_at(speeds(1e11, 3.02e11, 3e11, 3e11)), "bf16-mixed standard");
}

TEST(RunPlan, PutsTheFastestThatFitFirstAndTheSmallestOfTheRestBehind) {
  const MachineSpeed speed = speeds(1e11, 2e11, 1.5e11, 1.7e11);
  const RunPlan all = plan_run(request_for(kUnlimited), speed, 0);
  std::uint64_t largest = 0, smallest = kUnlimited;
  for (const RecipePlan& recipe : all.recipes) {
    largest = std::max(largest, recipe.bytes.total());
    smallest = std::min(smallest, recipe.bytes.total());
  }
  const RunPlan half = plan_run(request_for((largest + smallest) / 2), speed, 0);
  const auto behind = std::find_if(half.recipes.begin(), half.recipes.end(),
                                   [](const RecipePlan& recipe) { return !recipe.fits; });
  ASSERT_NE(behind, half.recipes.begin());
  ASSERT_NE(behind, half.recipes.end());
  EXPECT_EQ(half.recipes.size(), all.recipes.size());
  EXPECT_TRUE(std::none_of(behind, half.recipes.end(), [](const auto& one) { return one.fits; }));
  EXPECT_TRUE(std::is_sorted(behind, half.recipes.end(), [](const auto& a, const auto& b) {
    return a.bytes.total() < b.bytes.total();
  }));
  ASSERT_TRUE(half.choice);
  EXPECT_EQ(name(*half.choice), name(half.recipes.front()));
  EXPECT_LE(half.choice->bytes.total(), half.budget_bytes);
}

TEST(RunPlan, NamesLeanestOnlyWhereNothingElseFits) {
  const MachineSpeed speed = speeds(1e11, 2e11, 1e11, 1e11);
  const RunPlan all = plan_run(request_for(kUnlimited), speed, 0);
  std::uint64_t leanest = kUnlimited, others = kUnlimited;
  for (const RecipePlan& recipe : all.recipes) {
    std::uint64_t& least = recipe.memory == "leanest" ? leanest : others;
    least = std::min(least, recipe.bytes.total());
  }
  ASSERT_LT(leanest, others);
  EXPECT_THAT(choice_at(speed, leanest), HasSubstr("leanest"));
  EXPECT_THAT(choice_at(speed, others), testing::Not(HasSubstr("leanest")));
  EXPECT_EQ(choice_at(speed, leanest - 1), "none");
}

TEST(RunPlan, LeavesOutWhatTheOtherKeysExclude) {
  PlanRequest request = request_for(kUnlimited);
  request.memory.master_weights = "split16";  // bf16 weights with their missing bits beside them
  const RunPlan plan = plan_run(request, speeds(1e11, 1e11, 1e11, 1e11), 0);
  ASSERT_FALSE(plan.recipes.empty());
  for (const RecipePlan& recipe : plan.recipes)
    EXPECT_EQ(parse_precision(recipe.precision).compute_dtype(), torch::kBFloat16) << name(recipe);
}

TEST(RunPlan, RefusesARunWithTheRecipeThatWouldFit) {
  EXPECT_NO_THROW(check_memory(request_for(kUnlimited)));
  PlanRequest request = request_for(kUnlimited);
  const std::uint64_t own = plan_memory(request, process_bytes()).bytes.total();
  request.budget_bytes = own - (std::uint64_t{4} << 20U);
  const std::string message = test::message_of<UserError>([&] { check_memory(request); });
  EXPECT_THAT(message, HasSubstr("32-true"));
  EXPECT_THAT(message, HasSubstr("use precision 32-true with memory lean"));
  request.budget_bytes = 1;
  EXPECT_THAT(test::message_of<UserError>([&] { check_memory(request); }),
              HasSubstr("reduce batch_size"));
}

}  // namespace
}  // namespace halftone::run_plan_test
