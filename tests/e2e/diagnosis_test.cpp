// SPDX-License-Identifier: Apache-2.0
// What `halftone train` says about weights that can't be trained: the operation and the parameter
// where the first inf or nan came from.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "halftone/io/safetensors.h"
#include "halftone/kernels/gemm/gemm32.h"
#include "halftone/models/causal_lm.h"
#include "halftone/system/process.h"
#include "halftone/tokenizer/tokenizer.h"
#include "support/paths.h"
#include "support/temp_folder.h"

namespace halftone::diagnosis_test {
namespace {

using testing::AnyOf;
using testing::HasSubstr;
using testing::Not;

constexpr std::int64_t kDim = 128;

/// A model of two layers whose weights a test may spoil, and text of 40 samples; every second one
/// has the letter Z.
class Diagnosis : public testing::Test {
 protected:
  Diagnosis() {
    std::string text;
    for (int i = 0; i < 40; ++i)
      text += std::string(R"({"text": ")") + (i % 2 == 0 ? "geese fly south" : "Z swims north") +
              " over the river in spring, number " + std::to_string(i) + "\"}\n";
    test::write_text(folder_ / "text.jsonl", text);
    const ProcessResult made = halftone({"tokenizer", "train", "--data", folder_ / "text.jsonl",
                                         "--vocab-size", "280", "--out", folder_ / "tokenizer"});
    EXPECT_EQ(made.exit_code, 0) << made.output;
  }

  static ProcessResult halftone(const std::vector<std::string>& words) {
    std::vector<std::string> argv{std::string(test::kBuildDir) + "/halftone"};
    argv.insert(argv.end(), words.begin(), words.end());
    return run_process(argv);
  }

  using Weights = std::map<std::string, torch::Tensor>;
  /// The message of a run that begins with the weights that `spoil` leaves behind.
  std::string message(const std::function<void(Weights&)>& spoil,
                      const std::vector<std::string>& flags) const {
    const ProcessResult result = train(spoil, flags);
    EXPECT_EQ(result.exit_code, 1) << result.output;
    EXPECT_THAT(result.output, Not(AnyOf(HasSubstr("CppNode"), HasSubstr("anonymous"))));
    return result.output;
  }

  ProcessResult train(const std::function<void(Weights&)>& spoil,
                      const std::vector<std::string>& flags) const {
    torch::manual_seed(3);
    const Tokenizer tokenizer = Tokenizer::load(folder_ / "tokenizer");
    CausalLM model(ModelConfig{.dim = kDim,
                               .n_layers = 2,
                               .n_heads = 4,
                               .n_kv_heads = 2,
                               .vocab_size = tokenizer.vocab_size()});
    const torch::NoGradGuard no_grad;
    Weights weights;
    for (const auto& item : model->named_parameters()) weights[item.key()] = item.value();
    spoil(weights);
    save_safetensors(folder_ / "weights.safetensors", weights);
    std::vector<std::string> words{"train",
                                   "--data",
                                   folder_ / "text.jsonl",
                                   "--tokenizer",
                                   folder_ / "tokenizer",
                                   "--preset",
                                   "tiny",
                                   "--model.n-layers",
                                   "2",
                                   "--init-from",
                                   folder_ / "weights.safetensors",
                                   "--scaler.init-scale",
                                   "1",
                                   "--overwrite",
                                   "--out",
                                   folder_ / "run"};
    words.insert(words.end(), flags.begin(), flags.end());
    if (std::find(flags.begin(), flags.end(), "--max-steps") == flags.end())
      words.insert(words.end(), {"--max-steps", "40"});
    return halftone(words);
  }

  nlohmann::json anomaly() const {
    return nlohmann::json::parse(test::read_text(folder_ / "run/anomaly.json"));
  }

  test::TempFolder folder_;
};

struct Products {
  const char* precision;
  const char* ways;
};

TEST_F(Diagnosis, NamesTheWeightInEveryPrecisionAndOnEveryPath) {
  for (const Products& products :
       {Products{"32-true", "blas,native"}, Products{"32-true", "onednn,native"},
        Products{"int8-mixed", "blas,native"}, Products{"bf16-mixed", "onednn,upcast"},
        Products{"bf16-mixed", "blas,native"}, Products{"16-mixed", "onednn,upcast"},
        Products{"bf16-true", "blas,native"}, Products{"16-true", "blas,upcast"}}) {
    if (std::string(products.ways).starts_with("onednn") && !has_onednn_gemm32()) continue;
    const bool fp16 = std::string(products.precision).starts_with("16-");
    ::setenv("HALFTONE_MATMUL", products.ways, 1);
    const std::string text = message(
        [&](Weights& weights) {
          weights["layers.1.feed_forward.w1.weight"].mul_(20);
          weights["layers.1.feed_forward.w3.weight"].mul_(20);
          weights["layers.1.feed_forward.w2.weight"].fill_(fp16 ? 6e4 : 3e38);
        },
        {"--precision", products.precision, "--batch-size", "8", "--seq-len", "64"});
    ::unsetenv("HALFTONE_MATMUL");
    EXPECT_THAT(text,
                HasSubstr("in halftone::linear with 'layers.1.feed_forward.w2.weight' makes the "
                          "first non-finite value of the forward pass"))
        << products.precision << ", " << products.ways;
    EXPECT_THAT(text, HasSubstr("halftone: error: the last 10 updates were skipped"));
    EXPECT_THAT(text, HasSubstr(fp16 ? "it overflows fp16, which ends at 65504" : "it overflows "));
    EXPECT_EQ(anomaly()["module"], "layers.1.feed_forward.w2");
    EXPECT_EQ(anomaly()["cause"], "overflow");
    EXPECT_THAT(text, HasSubstr("; remedy: "));
  }
}

// Sums of fp16 numbers next to the largest one overflow where the letter Z is.
TEST_F(Diagnosis, NamesTheMicroBatchThatFailed) {
  const std::int64_t bad = Tokenizer::load(folder_ / "tokenizer").encode("Z").back();
  const std::string text = message(
      [&](Weights& weights) {
        weights["tok_embeddings.weight"][bad].zero_()[0] = 65504;
        weights["norm.weight"][0] = 0;  // the same row is the head's
        weights["layers.0.attention.wo.weight"][0].fill_(300);
      },
      {"--precision", "16-true", "--batch-size", "1", "--accumulate", "2", "--seq-len", "64",
       "--pack", "false", "--shuffle", "false"});
  EXPECT_THAT(text, HasSubstr("halftone: error: the last 10 updates were skipped"));
  EXPECT_THAT(text, HasSubstr("makes the first non-finite value of the forward pass, in "
                              "micro-batch 2 of 2"));
}

// One line that says all, at the first step, and the same for programs.
TEST_F(Diagnosis, EndsAtTheFirstAnomaly) {
  const std::string text = message(
      [](Weights& weights) {
        weights["layers.0.feed_forward.w1.weight"].mul_(20);
        weights["layers.0.feed_forward.w3.weight"].mul_(20);
        weights["layers.0.feed_forward.w2.weight"].fill_(6e4);
      },
      {"--precision", "16-mixed", "--batch-size", "8", "--seq-len", "64", "--detect-anomaly",
       "first"});
  const std::string kError = "halftone: error: detect_anomaly: the loss of step 1 is ";
  const std::size_t begin = text.find(kError);
  ASSERT_NE(begin, std::string::npos) << text;
  EXPECT_EQ(text.find('\n', begin), text.size() - 1) << text;
  EXPECT_THAT(text, HasSubstr(R"(--keep-fp32 '^layers\.0\.feed_forward\.w2(\.|$)')"));
  const nlohmann::json found = anomaly();
  EXPECT_EQ(found["step"], 1);
  EXPECT_EQ(found["kind"], "forward");
  EXPECT_EQ(found["format"], "fp16");
  EXPECT_EQ(found["format_max"], 65504.0);
  EXPECT_GT(found["largest"], 65504.0);
  EXPECT_EQ(found["within"], "halftone::linear");
  EXPECT_FALSE(found["inputs"].empty());
  EXPECT_THAT(text, HasSubstr(found["message"].get<std::string>()));
}

// The remedy works: what it keeps in fp32 does not overflow any more.
TEST_F(Diagnosis, NamesARemedyThatHelps) {
  const auto spoil = [](Weights& weights) {
    weights["layers.0.feed_forward.w1.weight"].mul_(20);
    weights["layers.0.feed_forward.w3.weight"].mul_(20);
    weights["layers.0.feed_forward.w2.weight"].fill_(6e4);
  };
  const std::vector<std::string> flags{"--precision", "16-mixed", "--batch-size", "8",
                                       "--seq-len",   "64",       "--lr",         "1e-8"};
  std::vector<std::string> watched = flags;
  watched.insert(watched.end(), {"--detect-anomaly", "first", "--max-steps", "3"});
  const std::string text = message(spoil, watched);
  const std::size_t begin = text.find("--keep-fp32 '");
  ASSERT_NE(begin, std::string::npos) << text;
  const std::size_t pattern = text.find('\'', begin) + 1;
  watched.insert(watched.end(),
                 {"--keep-fp32", text.substr(pattern, text.find('\'', pattern) - pattern)});
  const ProcessResult mended = train(spoil, watched);
  EXPECT_THAT(mended.output, Not(HasSubstr("layers.0.feed_forward.w2.weight' makes")))
      << mended.output;
}

// A run that nobody watched is resumed, and ends at the step that is bad.
TEST_F(Diagnosis, FindsTheStepOfARunThatIsResumed) {
  std::string text;
  for (int i = 0; i < 20; ++i)
    text += std::string(R"({"text": ")") + (i == 12 ? "Z swims north" : "geese fly south") +
            " over the river in spring, number " + std::to_string(i) + "\"}\n";
  test::write_text(folder_ / "text.jsonl", text);
  const std::int64_t bad = Tokenizer::load(folder_ / "tokenizer").encode("Z").back();
  const ProcessResult begun = train(
      [&](Weights& weights) {
        // Of the letter's two large numbers, attention makes one larger.
        for (const int column : {0, 1}) {
          weights["norm.weight"][column] = 0;  // the same rows are the head's
          weights["layers.0.attention.wo.weight"][column].fill_(column == 0 ? 3e37 : -3e37);
        }
        weights["tok_embeddings.weight"][bad].zero_().narrow(0, 0, 2).fill_(3.3e38);
      },
      {"--precision", "32-true", "--batch-size", "1", "--seq-len", "64", "--pack", "false",
       "--shuffle", "false", "--max-steps", "8", "--save-every", "4", "--lr", "1e-4"});
  ASSERT_EQ(begun.exit_code, 0) << begun.output;
  const ProcessResult resumed = halftone(
      {"train", "--resume", folder_ / "run", "--max-steps", "20", "--detect-anomaly", "first"});
  EXPECT_EQ(resumed.exit_code, 1) << resumed.output;
  EXPECT_THAT(resumed.output, HasSubstr("the loss of step 13 is "));
  const nlohmann::json found = anomaly();
  EXPECT_EQ(found["step"], 13);
  EXPECT_EQ(found["batch"], 12);
  EXPECT_EQ(found["cause"], "overflow");
}

// An update that no weight of fp16 can hold.
TEST_F(Diagnosis, NamesTheUpdateThatSpoilsTheWeights) {
  const std::string text =
      message([](Weights&) {}, {"--precision", "16-true", "--lr", "1e6", "--batch-size", "2",
                                "--seq-len", "64", "--detect-anomaly", "first"});
  EXPECT_THAT(text, HasSubstr("detect_anomaly: after step 1 weights are not finite; the update "
                              "makes the parameters "));
  EXPECT_THAT(text, HasSubstr("it overflows fp16"));
  EXPECT_THAT(text, HasSubstr("at the learning rate 1"));
  EXPECT_EQ(anomaly()["kind"], "update");
}

TEST_F(Diagnosis, NamesWhatALearningRateThatIsTooLargeBreaks) {
  for (const char* memory : {"standard", "lean"}) {
    const std::string text =
        message([](Weights&) {}, {"--precision", "bf16-mixed", "--lr", "1e25", "--batch-size", "2",
                                  "--seq-len", "64", "--memory", memory});
    EXPECT_THAT(text, HasSubstr("halftone: error: the last 10 updates were skipped"));
    EXPECT_THAT(text, HasSubstr("makes the first non-finite "));
    EXPECT_THAT(text, Not(HasSubstr("aten::zero_")));
  }
}

}  // namespace
}  // namespace halftone::diagnosis_test
