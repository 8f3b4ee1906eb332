// SPDX-License-Identifier: Apache-2.0
// Files, flags and an environment that a stranger or a bad day may have given.
#include "cli/program_fixture.h"

namespace halftone::test::program_inputs_test {
namespace {

TEST_F(Program, EvalTakesTheModelsLengthNotThePresets) {
  const std::string weights =
      "eval --init-from run --tokenizer tok --data poem.txt --preset tiny --model.dim 16 "
      "--model.n-layers 1 --model.max-seq-len 64 ";
  EXPECT_EQ(halftone(weights + "--seq-len 32").code, 0);
  EXPECT_EQ(halftone(weights).code, 0) << "the default follows max_seq_len";
  expect_refused({{weights + "--seq-len 65",
                   "--seq-len: seq_len must be at most model.max_seq_len "
                   "64, got 65"}});
}

TEST_F(Program, NumbersThatAreNoneAreAFailureThatNamesTheTensor) {
  const std::string words = std::string("train --data poem.txt --tokenizer tok --out overflown") +
                            kModel +
                            "--precision 32-true --lr 1e18 --schedule constant "
                            "--grad-clip 0 --max-steps 1";
  ASSERT_EQ(halftone(words).code, 0);
  for (const std::string command :
       {"eval overflown --data poem.txt --json", "eval overflown --data poem.txt",
        "generate overflown --greedy --max-new-tokens 4"}) {
    const Outcome outcome = halftone(command);
    EXPECT_EQ(outcome.code, 1) << command << outcome.out;
    EXPECT_THAT(outcome.out, testing::Not(HasSubstr("null"))) << command;
    EXPECT_THAT(outcome.err, testing::ContainsRegex("halftone: error: .*'[a-z0-9_.]+[.]weight'"))
        << command;
  }
}

TEST_F(Program, JudgesTheEnvironmentBeforeItWorks) {
  const Outcome kernels = halftone(training("--data poem.txt --tokenizer tok --out r"),
                                   "export HALFTONE_REFERENCE_KERNELS=rms_nrom");
  EXPECT_EQ(kernels.code, 2);
  EXPECT_THAT(kernels.err, testing::StartsWith("halftone: error: environment variable "
                                               "HALFTONE_REFERENCE_KERNELS: "));
  const Outcome former = halftone(training("--data poem.txt --tokenizer tok --out r"),
                                  "export HALFTONE_COMPOSED=rms_nrom");
  EXPECT_EQ(former.code, 2);
  EXPECT_THAT(former.err, HasSubstr("environment variable HALFTONE_COMPOSED: expected"));
  const Outcome matmul =
      halftone("tokenizer encode --tokenizer tok --text a", "export HALFTONE_MATMUL=natvie");
  EXPECT_EQ(matmul.code, 2);
  EXPECT_THAT(matmul.err, HasSubstr("environment variable HALFTONE_MATMUL: expected native or"));
}

TEST_F(Program, TooLittleMemoryToLoadIsSaidSo) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer's own map of memory exceeds every limit of addresses";
#endif
  const Outcome outcome = halftone("--version", "ulimit -v 400000");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("out of memory while the program was loaded"));
  EXPECT_THAT(outcome.err, testing::Not(HasSubstr("install it again")));
}

TEST_F(Program, HostileFilesAreRefusedInOneLine) {
  const std::string deep = std::string(150'000, '[') + std::string(150'000, ']');
  for (const char* name : {"deep_act", "deep_size", "wide"}) fs::create_directories(work() / name);
  write_text(work() / "deep_act/config.json", "{\"hidden_act\": " + deep + "}");
  write_text(work() / "deep_size/config.json", "{\"hidden_size\": " + deep + "}");
  write_text(work() / "wide/config.json", "{\"hidden_size\": 4294967295}");
  std::string dotted = "a";
  for (int i = 0; i < 100'000; ++i) dotted += ".a";
  write_text(work() / "dotted.toml", dotted + " = 1\n");
  write_text(work() / "nested.toml", "data = " + deep + "\n");
  write_text(work() / "regex.toml", "keep_fp32 = [\"((((.*)*)*)*)*x\"]\n");
  write_text(work() / "parens.toml",
             "keep_fp32 = [\"" + std::string(30'000, '(') + std::string(30'000, ')') + "\"]\n");
  const fs::path damaged = copy_of_run("deep_trainer");
  for (const char* step : {"step-00000002", "step-00000004"})
    write_text(damaged / "checkpoints" / step / "trainer.json",
               "{\"xxh64\": \"0\", \"a\": " + deep + "}");
  const std::string data =
      " --data poem.txt --tokenizer tok --out r --max-steps 1" + std::string(kModel);
  expect_refused({
      {"eval deep_act --data poem.txt", "deep_act/config.json: expected JSON nested at most"},
      {"eval deep_size --data poem.txt", "deep_size/config.json: expected JSON nested at most"},
      {"eval wide --data poem.txt", "hidden_size must be an integer from 1 to 2147483647"},
      {"train dotted.toml" + data, "dotted.toml:1: expected a key of at most 16 parts"},
      {"train nested.toml" + data, "nested.toml:1: not TOML"},
      {"train regex.toml" + data, "matches no module's path"},
      {"train parens.toml" + data, "parens.toml:1: keep_fp32: expected a regular expression of at"},
      {"train --resume deep_trainer", "trainer.json: expected JSON nested at most"},
  });
}

}  // namespace
}  // namespace halftone::test::program_inputs_test
