// SPDX-License-Identifier: Apache-2.0
// What `halftone plan` predicts against the resident memory of a `halftone train`.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "halftone/system/memory.h"
#include "support/built_program.h"
#include "support/temp_folder.h"

namespace halftone::plan_test {
namespace {

using nlohmann::json;

class Plan : public testing::Test {
 protected:
  Plan() {
    std::string text;
    for (int i = 0; i < 9000; ++i)
      text += "Line " + std::to_string(i) + ": " + std::to_string(i * i % 97) + " geese, 春江.\n";
    test::write_text(folder_ / "text.txt", text);
    peak_of({"tokenizer", "train", "--data", folder_ / "text.txt", "--vocab-size", "400", "--out",
             folder_ / "tokenizer"});
  }

  /// Runs the program, with what it prints in `out`; returns the most memory that it held.
  double peak_of(const std::vector<std::string>& arguments) const {
    const test::ProgramEnd end =
        test::wait_for_program(test::start_program(arguments, folder_ / "out", ""));
    EXPECT_EQ(end.code, 0);
    return end.peak_bytes;
  }

  std::vector<std::string> flags(const std::string& command) const {
    return {command,     "--preset",  "tiny", "--data",      folder_ / "text.txt",  "--batch-size",
            batch_size_, "--seq-len", "256",  "--tokenizer", folder_ / "tokenizer", "--threads",
            "2"};
  }

  double measured(const std::string& precision, const std::string& memory,
                  const std::vector<std::string>& others = {}) const {
    std::vector<std::string> words = flags("train");
    words.insert(words.end(), others.begin(), others.end());
    const std::vector<std::string> more = {"--precision", precision,     "--memory",
                                           memory,        "--max-steps", "2",
                                           "--overwrite", "--out",       folder_ / "run"};
    words.insert(words.end(), more.begin(), more.end());
    const double peak = peak_of(words);
    // A child begins with its parent's peak.
    EXPECT_LT(static_cast<double>(peak_resident_bytes()), peak);
    return peak;
  }

  json plan(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words = flags("plan");
    words.push_back("--json");
    words.insert(words.end(), more.begin(), more.end());
    peak_of(words);
    return json::parse(test::read_text(folder_ / "out"));
  }

  const test::TempFolder folder_;
  std::string batch_size_ = "24";
};

TEST_F(Plan, IsNearWhatTrainingTakes) {
  const json document = plan();
  ASSERT_EQ(document.at("recipes").size(), 22U);
  for (const json& recipe : document.at("recipes")) {
    double sum = 0;
    for (const auto& [kind, bytes] : recipe.at("bytes").items()) sum += bytes.get<double>();
    EXPECT_EQ(sum, recipe.at("peak_bytes").get<double>());
    EXPECT_GT(recipe.at("step_s").get<double>(), 0.0);
    const auto precision = recipe.at("precision").get<std::string>();
    const auto memory = recipe.at("memory").get<std::string>();
    EXPECT_NEAR(recipe.at("peak_bytes").get<double>() / measured(precision, memory), 1.0, 0.1)
        << precision << ", " << memory << ": " << recipe.dump();
  }
}

TEST_F(Plan, CountsOffloadedStatesAsOnDisk) {
  // Wide enough that the states are most of what is kept.
  batch_size_ = "2";
  const std::vector<std::string> wide = {"--model.dim", "768", "--offload", test::kBuildDir};
  const json wide_plan = plan(wide);
  for (const json& recipe : wide_plan.at("recipes")) {
    const auto precision = recipe.at("precision").get<std::string>();
    const auto memory = recipe.at("memory").get<std::string>();
    if (precision != "bf16-mixed" || memory == "lean") continue;
    EXPECT_GT(recipe.at("disk_bytes").get<double>(), 0.0);
    EXPECT_NEAR(recipe.at("peak_bytes").get<double>() / measured(precision, memory, wide), 1.0, 0.1)
        << precision << ", " << memory << ": " << recipe.dump();
  }
}

}  // namespace
}  // namespace halftone::plan_test
