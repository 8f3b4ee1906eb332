// SPDX-License-Identifier: Apache-2.0
// The lines of a table of recipes.
#include "halftone/plan/recipe_plans.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "halftone/core/error.h"
#include "halftone/core/text.h"
#include "halftone/nn/linear.h"
#include "halftone/optim/adamw.h"
#include "support/message_of.h"

namespace halftone::recipe_plans_test {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;
using torch::Tensor;

class Square : public TrainingModule<Tensor> {
 public:
  Square() { register_module("linear", linear_); }
  Tensor training_step(const Tensor& batch, std::int64_t /*index*/) override {
    return linear_(batch).to(torch::kFloat).square().mean();
  }
  std::vector<OptimizerSetup> configure_optimizers(const OptimizerContext& context) override {
    return {std::make_shared<AdamW>(parameters(), context.adamw())};
  }

 private:
  Linear linear_{2048, 2048};
};

PlannedTraining square() {
  return planned_training([] { return std::make_shared<Square>(); },
                          [](std::int64_t count) {
                            return torch::zeros({count, 2048});
                          });
}

/// The bytes of the process in the line of a precision, the last of its seven sizes.
std::uint64_t process_in(const std::string& text, const std::string& precision) {
  std::istringstream line(text.substr(text.find("\n" + precision)));
  std::string name, memory, batch, number, unit;
  line >> name >> memory >> batch;
  for (int i = 0; i < 7; ++i) line >> number >> unit;
  return parse_bytes(number + unit).value();
}

TEST(RecipePlans, AreLinesOfOneTable) {
  const std::string text = recipe_plans_text(
      square(), {.recipes = {{.precision = "32-true"}, {.precision = "bf16-mixed"}},
                 .batch_size = 24,
                 .budget = std::uint64_t{64} << 30U,
                 .samples = 240});
  EXPECT_THAT(text, ContainsRegex("^precision +memory +batch +peak"));
  EXPECT_THAT(text, ContainsRegex("\n32-true +standard +24 .*\nbf16-mixed +standard +24 "));
  EXPECT_THAT(text, ContainsRegex("24 .*\n32-true +standard +[0-9]{5}.*\nbf16-mixed +standard"));
  EXPECT_THAT(text, Not(HasSubstr("not even")));
}

TEST(RecipePlans, SayWhatDoesNotFitAndLeaveOutWhatCannotBe) {
  // Released gradients go with no loss scale.
  const std::string text = recipe_plans_text(
      square(), {.recipes = {{.precision = "32-true", .memory = {.memory = "leanest"}},
                             {.precision = "16-mixed", .memory = {.memory = "leanest"}},
                             {.precision = "bf16-mixed"}},
                 .batch_size = 8,
                 .budget = std::uint64_t{1} << 20U});
  EXPECT_THAT(text, HasSubstr("32-true, leanest: not even one sample fits into 1.0 MiB\n"
                              "bf16-mixed: not even one sample fits into 1.0 MiB\nprecision "));
  EXPECT_THAT(text, ContainsRegex("\n32-true +leanest +8 .*\nbf16-mixed +standard +8 "));
  EXPECT_THAT(text, Not(HasSubstr("16-mixed, leanest")));
  EXPECT_THAT(test::message_of<UserError>([] {
                (void)recipe_plans_text(
                    square(), {.recipes = {{.precision = "bf17-mixed"}}, .batch_size = 1});
              }),
              HasSubstr("bf17-mixed"));
  EXPECT_THAT(test::message_of<UserError>([] {
                (void)recipe_plans_text(
                    square(), {.recipes = recipes_of({"32-true"}, {"leen"}), .batch_size = 1});
              }),
              HasSubstr("expected memory to be one of standard, lean, leanest, got 'leen'"));
}

TEST(RecipePlans, TakeEachPrecisionWithEachMemoryPolicy) {
  std::string names;
  for (const ModuleRecipe& recipe : recipes_of({"32-true", "bf16-mixed"}, {"standard", "lean"}))
    names += recipe.precision + " " + recipe.memory.memory + "; ";
  EXPECT_EQ(names, "32-true standard; bf16-mixed standard; 32-true lean; bf16-mixed lean; ");
  EXPECT_EQ(recipes_of({"32-true"}).size(), 1U);
}

TEST(RecipePlans, CountTheCopiesThatCallbacksKeep) {
  const auto process_with = [](std::int64_t copies) {
    const std::string text = recipe_plans_text(
        square(),
        {.recipes = {{.precision = "32-true"}}, .batch_size = 1, .weight_copies = copies});
    return static_cast<double>(process_in(text, "32-true"));
  };
  process_with(0);  // what the first one loads stays
  constexpr double kWeights = 4.0 * 2048 * 2048;
  EXPECT_NEAR(process_with(8) - process_with(0), 8 * kWeights, kWeights);
}

}  // namespace
}  // namespace halftone::recipe_plans_test
