// SPDX-License-Identifier: Apache-2.0
#include "halftone/tokenizer/bpe_trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "support/paths.h"

namespace halftone::bpe_trainer_test {
namespace {

using nlohmann::json;

json golden(const std::string& name) {
  std::ifstream file(std::string(test::kGoldenDir) + "/tokenizer/" + name);
  return json::parse(file);
}

const std::vector<std::string>& sample_texts() {
  static const std::vector<std::string> texts =
      golden("trainings.json")[0]["texts"].get<std::vector<std::string>>();
  return texts;
}

class BpeTrainerTest : public testing::Test {
 protected:
  BpeTrainerTest() {
    set_log_sink([this](LogLevel, const std::string& message) { messages_.push_back(message); });
  }
  ~BpeTrainerTest() override { set_log_sink({}); }

  std::vector<std::string> messages_;
};

TEST_F(BpeTrainerTest, LearnsTheMergesThatTheReferenceLearns) {
  const json trainings = golden("trainings.json");
  ASSERT_EQ(trainings.size(), 7);
  for (const json& training : trainings) {
    BpeTrainer trainer(
        {.vocab_size = training["vocab_size"], .min_frequency = training["min_frequency"]});
    for (const std::string text : training["texts"]) trainer.add_text(text);
    const Tokenizer tokenizer = trainer.train();
    EXPECT_EQ(json::parse(tokenizer.json())["model"]["merges"], training["merges"]);
    EXPECT_EQ(tokenizer.vocab_size(), training["tokens"]);
  }
}

TEST_F(BpeTrainerTest, WritesTheReferencesFileByteForByte) {
  BpeTrainer trainer({.vocab_size = 700});
  for (const std::string& text : sample_texts()) trainer.add_text(text);
  std::ifstream file(std::string(test::kGoldenDir) + "/tokenizer/tokenizer.json");
  const std::string expected((std::istreambuf_iterator<char>(file)),
                             std::istreambuf_iterator<char>());
  EXPECT_EQ(trainer.train().json(), expected);
}

TEST_F(BpeTrainerTest, SaysWhenTheDataIsTooSmall) {
  BpeTrainer trainer;
  trainer.add_text("abc abc");
  EXPECT_EQ(trainer.train().vocab_size(), 259 + 3);  // "ab", "abc", and " abc" with its space
  EXPECT_THAT(messages_, testing::ElementsAre(testing::HasSubstr("learned 262")));
}

TEST_F(BpeTrainerTest, KeepsRarePairsApart) {
  BpeTrainer trainer({.vocab_size = 1000, .min_frequency = 3});
  trainer.add_text("xy xy xy zw zw");
  const Tokenizer tokenizer = trainer.train();
  EXPECT_TRUE(tokenizer.token_to_id("xy"));
  EXPECT_FALSE(tokenizer.token_to_id("zw"));
}

TEST_F(BpeTrainerTest, GivesSpecialTokensTheirRoles) {
  BpeTrainer trainer({.vocab_size = 300, .special_tokens = {"[PAD]", "[BOS]", "[EOS]", "[X]"}});
  trainer.add_text("some text, some text");
  const SpecialTokens special = trainer.train().special_tokens();
  EXPECT_EQ(special.pad, 0);
  EXPECT_EQ(special.bos, 1);
  EXPECT_EQ(special.eos, 2);
}

TEST_F(BpeTrainerTest, ReportsProgress) {
  std::vector<std::int64_t> learned;
  BpeTrainer trainer({.vocab_size = 700, .progress = [&](std::int64_t tokens, std::int64_t wanted) {
                        learned.push_back(tokens);
                        EXPECT_EQ(wanted, 700);
                      }});
  for (const std::string& text : sample_texts()) trainer.add_text(text);
  trainer.train();
  EXPECT_THAT(learned, testing::ElementsAre(359, 459, 559, 659));
}

TEST_F(BpeTrainerTest, RefusesWhatCannotBeTrained) {
  EXPECT_THROW(BpeTrainer({.vocab_size = 258}), UserError);
  EXPECT_THROW(BpeTrainer({.special_tokens = {"<s>", ""}}), UserError);
  EXPECT_THROW(BpeTrainer().train(), UserError);
  EXPECT_NO_THROW(BpeTrainer({.vocab_size = 259}));
}

}  // namespace
}  // namespace halftone::bpe_trainer_test
