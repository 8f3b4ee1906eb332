// SPDX-License-Identifier: Apache-2.0
// What `halftone plan --processes 2` predicts against the resident memory of two processes.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "halftone/system/memory.h"
#include "support/built_program.h"
#include "support/temp_folder.h"

namespace halftone::shared_plan_test {
namespace {

using nlohmann::json;
using Flags = std::vector<std::string>;

class SharedPlan : public testing::Test {
 protected:
  SharedPlan() {
    std::string text;
    for (int i = 0; i < 9000; ++i)
      text += "Line " + std::to_string(i) + ": " + std::to_string(i * i % 97) + " geese, 春江.\n";
    test::write_text(folder_ / "text.txt", text);
  }

  /// Of the largest of all processes that the program has started.
  double peak_of(const Flags& words) const {
    const test::ProgramEnd end =
        test::wait_for_program(test::start_program(words, folder_ / "out", ""));
    EXPECT_EQ(end.code, 0);
    return end.peak_bytes;
  }

  /// Wide enough that weights, gradients and states are most of what is kept.
  Flags flags(Flags words, const Flags& more) const {
    const Flags common = {"--preset",
                          "tiny",
                          "--data",
                          folder_ / "text.txt",
                          "--model.dim",
                          "768",
                          "--batch-size",
                          "2",
                          "--seq-len",
                          "128",
                          "--threads",
                          "1",
                          "--tokenizer-vocab-size",
                          "400"};
    words.insert(words.end(), common.begin(), common.end());
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  void expect_near(const std::set<std::string>& precisions, const Flags& more) const {
    Flags plan = more;
    plan.insert(plan.end(), {"--processes", "2", "--json"});
    peak_of(flags({"plan"}, plan));
    const json document = json::parse(test::read_text(folder_ / "out"));
    for (const json& recipe : document.at("recipes")) {
      const auto precision = recipe.at("precision").get<std::string>();
      if (recipe.at("memory") != "standard") continue;
      if (!precisions.contains(precision)) continue;
      Flags train = more;
      train.insert(train.end(), {"--precision", precision, "--memory", "standard", "--max-steps",
                                 "2", "--overwrite", "--out", folder_ / "run"});
      const double peak = peak_of(flags({"launch", "--processes", "2", "train"}, train));
      // A child begins with its parent's peak.
      EXPECT_LT(static_cast<double>(peak_resident_bytes()), peak);
      EXPECT_NEAR(recipe.at("peak_bytes").get<double>() / peak, 1.0, 0.1) << recipe.dump();
    }
  }

  const test::TempFolder folder_;
};

TEST_F(SharedPlan, IsNearWhatProcessesTakeThatShareNothing) {
  expect_near({"bf16-mixed"}, {"--shard", "none"});
}

TEST_F(SharedPlan, IsNearWhatProcessesTakeThatShareStates) {
  expect_near({"32-true"}, {"--shard", "optimizer"});
}

TEST_F(SharedPlan, IsNearWhatProcessesTakeThatShareGradients) {
  expect_near({"32-true", "bf16-mixed"}, {"--shard", "gradients"});
}

// Two copies of the gradients, a fifth of all.
TEST_F(SharedPlan, CountsTheCopiesOfATreeOfSums) {
  expect_near({"32-true"}, {"--shard", "optimizer", "--gradient-sum", "tree", "--accumulate", "4"});
}

}  // namespace
}  // namespace halftone::shared_plan_test
