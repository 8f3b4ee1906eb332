// SPDX-License-Identifier: Apache-2.0
// A damaged tokenizer.json is an error or another tokenizer, never a crash.
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "halftone/core/error.h"
#include "halftone/core/log.h"
#include "halftone/tokenizer/bpe_trainer.h"
#include "halftone/tokenizer/tokenizer.h"

namespace halftone::tokenizer_fuzz_test {
namespace {

class TokenizerFuzz : public testing::Test {
 protected:
  TokenizerFuzz() {
    set_log_sink([](LogLevel, const std::string&) {});
    BpeTrainer trainer({.vocab_size = 290});
    trainer.add_text("明月 the moon, 明月 the moon, the light of the moon");
    const Tokenizer tokenizer = trainer.train();
    json_ = tokenizer.json();
    tokenizer.save(folder_);
    std::ifstream file(folder_ / "tokenizer_config.json");
    config_.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  ~TokenizerFuzz() override {
    std::filesystem::remove_all(folder_);
    set_log_sink({});
  }

  // True when it loads; then it must encode and decode too.
  static bool survives(const std::string& json, const std::string& config) {
    try {
      const Tokenizer tokenizer = Tokenizer::from_json(json, config, "fuzzed.json");
      const std::string text = "<s>the moon 明月 's \xFF</s>";
      tokenizer.encode(text);
      const auto ids = tokenizer.encode(text, SpecialTokenParsing::kTokens);
      EXPECT_LE(tokenizer.vocab_size(), 2000);
      tokenizer.decode(ids, true);
      return true;
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what()).find("fuzzed.json"), std::string::npos) << error.what();
      return false;
    }
  }

  const std::filesystem::path folder_ =
      std::filesystem::path(testing::TempDir()) / "fuzzed_tokenizer";
  std::string json_;
  std::string config_;
};

std::string mutate(std::string text, std::mt19937& random) {
  const std::string alphabet = "\"{}[],:0123456789-.etrufalsn \\\xC3\xFF";
  for (auto n = 1 + random() % 3; n > 0; --n) {
    const std::size_t at = random() % text.size();
    switch (random() % 4) {
      case 0:
        text[at] = alphabet[random() % alphabet.size()];
        break;
      case 1:
        text.erase(at, 1 + random() % 30);
        break;
      case 2:
        text.insert(at, 1 + random() % 3, alphabet[random() % alphabet.size()]);
        break;
      default:
        text.insert(at, text.substr(random() % text.size(), random() % 40));
    }
    if (text.empty()) text = "x";
  }
  return text;
}

TEST_F(TokenizerFuzz, SurvivesMutations) {
  std::mt19937 random(1);
  int loaded = 0;
  for (int i = 0; i < 4000; ++i) loaded += survives(mutate(json_, random), "") ? 1 : 0;
  EXPECT_GT(loaded, 10);
  EXPECT_LT(loaded, 3990);
}

TEST_F(TokenizerFuzz, SurvivesMutationsOfTheConfig) {
  std::mt19937 random(2);
  int loaded = 0;
  for (int i = 0; i < 1000; ++i) loaded += survives(json_, mutate(config_, random)) ? 1 : 0;
  EXPECT_GT(loaded, 10);
  EXPECT_LT(loaded, 990);
}

TEST_F(TokenizerFuzz, SurvivesTruncation) {
  for (std::size_t size = 0; size < json_.size(); size += 7)
    EXPECT_FALSE(survives(json_.substr(0, size), "")) << size;
}

TEST_F(TokenizerFuzz, SurvivesDeepNesting) {
  EXPECT_FALSE(survives(std::string(1000000, '['), ""));
  EXPECT_FALSE(
      survives("{\"model\":" + std::string(100000, '[') + std::string(100000, ']') + "}", ""));
}

}  // namespace
}  // namespace halftone::tokenizer_fuzz_test
