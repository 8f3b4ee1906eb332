// SPDX-License-Identifier: Apache-2.0
#include "cli/arguments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <new>
#include <system_error>

#include "cli/program.h"
#include "halftone/core/error.h"
#include "support/temp_folder.h"

namespace halftone::cli::arguments_test {
namespace {

using test::TempFolder;
using test::write_text;
using testing::ElementsAre;
using testing::HasSubstr;

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
  TrainConfig config;
};

// A program with one command that resolves its configuration and hands it to `body`.
Outcome run(const std::vector<std::string>& args,
            const std::function<void(const TrainConfig&)>& body = {}) {
  Outcome outcome;
  CLI::App app("test", "halftone");
  CLI::App* train = app.add_subcommand("train", "train a model");
  ConfigArguments arguments(*train);
  train->callback([&] {
    outcome.config = arguments.resolve();
    if (body) body(outcome.config);
  });
  CLI::App* tokenizer = app.add_subcommand("tokenizer", "tokenizers");
  tokenizer->require_subcommand(1);
  std::string tokenizer_data;
  tokenizer->add_subcommand("encode", "encode");
  tokenizer->add_subcommand("train", "learn")->add_option("--data", tokenizer_data)->required();
  app.require_subcommand(1);
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  outcome.code = run_program(app, args);
  outcome.out = testing::internal::GetCapturedStdout();
  outcome.err = testing::internal::GetCapturedStderr();
  return outcome;
}

TEST(Arguments, FlagsInEitherSpellingWinOverTheFile) {
  const TempFolder folder;
  write_text(folder / "a.toml", "batch_size = 3\nseq_len = 100\n");
  const Outcome outcome =
      run({"train", folder / "a.toml", "--batch-size", "4", "--model.n_layers=2", "--max_steps",
           "7", "--model.n-heads", "4", "--lr", "1e-3"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.config.batch_size, 4);
  EXPECT_EQ(outcome.config.seq_len, 100);
  EXPECT_EQ(outcome.config.model.n_layers, 2);
  EXPECT_EQ(outcome.config.model.n_heads, 4);
  EXPECT_EQ(outcome.config.max_steps, 7);
  EXPECT_EQ(outcome.config.lr, 1e-3);
}

TEST(Arguments, SwitchesTakeAValueOrNone) {
  const TempFolder folder;
  write_text(folder / "a.toml", "batch_size = 3\n");
  const Outcome outcome = run({"train", "--overwrite", folder / "a.toml", "--pack", "false",
                               "--shuffle=false", "--model.use-moe"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(outcome.config.overwrite);
  EXPECT_FALSE(outcome.config.pack);
  EXPECT_FALSE(outcome.config.shuffle);
  EXPECT_TRUE(outcome.config.model.use_moe);
  EXPECT_EQ(outcome.config.batch_size, 3);
}

TEST(Arguments, DataIsRepeatable) {
  const TempFolder folder;
  write_text(folder / "a.toml", "data = \"/z\"\n");
  EXPECT_THAT(run({"train", "--data", "/a", "--data=/b"}).config.data, ElementsAre("/a", "/b"));
  EXPECT_THAT(run({"train", "--data", "/a", folder / "a.toml"}).config.data, ElementsAre("/a"));
}

TEST(Arguments, RequireDataNamesTheRemedy) {
  const Outcome outcome =
      run({"train"}, [](const TrainConfig& config) { require_data(config, "train on"); });
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("with --data"));
}

TEST(CliSupport, AUsersMistakeIsOneLineAndCodeTwo) {
  const TempFolder folder;
  write_text(folder / "bad.toml", "\nbatchsize = 3\n");
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "expected a command; see 'halftone --help'"},
      {{"trian"}, "there is no command 'trian'; did you mean 'train'?"},
      {{"trian", "--data", "x"}, "there is no command 'trian'; did you mean 'train'?"},
      {{"trian", "--no-such-flag"}, "there is no command 'trian'; did you mean 'train'?"},
      {{"tokenizer", "trian", "--data", "x"}, "there is no command 'trian'; did you mean 'train'?"},
      {{"tokenzier", "train", "--dta", "x"}, "there is no command 'tokenzier'; did you mean 'tok"},
      {{"encode", "--tokenizer", "x"}, "'encode'; did you mean 'tokenizer encode'?"},
      {{"tokenizer", "--data", "x"},
       "expected a command before the flag --data; see 'halftone tok"},
      {{"--data", "x", "train"},
       "expected the command before its flags: halftone train --data ..."},
      {{"--data", "x"}, "expected a command before the flag --data; see 'halftone --help'"},
      {{"train", "tiny"}, "'tiny' was not expected: a preset goes with --preset tiny"},
      {{"train", "--preset", "tinny"}, "got 'tinny'; did you mean 'tiny'?"},
      {{"zzzzzzzzzz"}, "there is no command 'zzzzzzzzzz'; see 'halftone --help'"},
      {{"tokenizer"}, "expected a command; see 'halftone tokenizer --help'"},
      {{"tokenizer", "encod"}, "did you mean 'encode'?"},
      {{"--verbos"}, "expected a command before the flag --verbos"},
      {{"--hepl"}, "there is no flag --hepl; did you mean --help?"},
      {{"train", "--batchsize", "3"}, "there is no flag --batchsize; did you mean --batch-size?"},
      {{"train", "--batchsize=3"}, "there is no flag --batchsize; did you mean --batch-size?"},
      {{"train", "--n-layers", "3"}, "did you mean --model.n-layers?"},
      {{"train", "-x"}, "there is no flag -x"},
      {{"train", "--lr"}, "--lr: expected a value after it, got none"},
      {{"train", "--lr", "fast"}, "--lr: lr must be a positive number, got 'fast'"},
      {{"train", "--lr", "-1"}, "--lr: lr must be a positive number, got -1"},
      {{"train", "--lr", "1", "--lr", "2"}, "--lr: expected one value, got 2"},
      {{"train", "--max-steps", "0"}, "--max-steps: max_steps must be a positive integer, got 0"},
      {{"train", "--precision", "fp16"}, "must be one of 32-true, 16-true"},
      {{"train", "--precision", "fp16"}, "got 'fp16'; did you mean '16-mixed'?"},
      {{"train", "--precision", "bfloat16"}, "did you mean 'bf16-mixed'?"},
      {{"train", "--threads", "1000000"}, "threads must be an integer from 0 to 1024"},
      {{"train", "--model.dim", "9000000000"}, "got 9000000000; that is too large"},
      {{"train", "poems.txt"}, "'poems.txt' was not expected: a configuration file ends in .toml"},
      {{"train", "--pack=maybe"}, "--pack: pack must be true or false, got 'maybe'"},
      {{"train", folder / "bad.toml"}, "bad.toml:2: there is no key 'batchsize'; did you mean"},
      {{"train", folder / "none.toml"}, "none.toml': No such file or directory"},
      {{"train", "a.toml", "b.toml"},
       "'b.toml' was not expected; data goes with --data, see 'halftone train --help'"},
  };
  for (const auto& [args, expected] : cases) {
    const Outcome outcome = run(args);
    EXPECT_EQ(outcome.code, 2) << expected;
    EXPECT_THAT(outcome.err, testing::StartsWith("halftone: error: "));
    EXPECT_THAT(outcome.err, HasSubstr(expected));
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_EQ(outcome.out, "");
  }
}

TEST(CliSupport, FailuresAreCodeOneAndOneLine) {
  const auto fail = [](auto thrown) {
    return run({"train"}, [thrown](const TrainConfig&) { throw thrown; });
  };
  EXPECT_EQ(fail(SystemError("disk")).code, 1);
  EXPECT_EQ(fail(SystemError("disk")).err, "halftone: error: disk\n");
  const auto file_error = [](std::errc code) {
    return std::filesystem::filesystem_error("x", "/a", std::make_error_code(code));
  };
  EXPECT_EQ(fail(file_error(std::errc::permission_denied)).code, 2);
  EXPECT_EQ(fail(file_error(std::errc::permission_denied)).err,
            "halftone: error: cannot use '/a': Permission denied\n");
  EXPECT_EQ(fail(file_error(std::errc::no_space_on_device)).code, 1);
  EXPECT_EQ(fail(std::bad_alloc()).code, 1);
  EXPECT_THAT(fail(std::bad_alloc()).err, HasSubstr("--batch-size"));
  EXPECT_EQ(fail(std::runtime_error("a\nb\n")).err, "halftone: error: a b\n");
  const Outcome torch_error =
      run({"train"}, [](const TrainConfig&) { TORCH_CHECK(false, "[unit] expected 1, got 2"); });
  EXPECT_EQ(torch_error.code, 1);
  EXPECT_EQ(torch_error.err, "halftone: error: [unit] expected 1, got 2\n");
}

TEST(CliSupport, ACommandMayChooseItsCode) {
  const Outcome outcome = run({"train"}, [](const TrainConfig&) { throw Exit{130}; });
  EXPECT_EQ(outcome.code, 130);
  EXPECT_EQ(outcome.err, "");
}

TEST(CliSupport, HelpNeedsNoCommandAndAsksForNoMore) {
  for (const std::vector<std::string>& args : std::vector<std::vector<std::string>>{
           {"--help"}, {"-h"}, {"tokenizer", "--help"}, {"train", "--help"}}) {
    const Outcome outcome = run(args);
    EXPECT_EQ(outcome.code, 0) << args.front();
    EXPECT_EQ(outcome.err, "");
  }
}

TEST(CliSupport, WordsInTheEnvironmentAreJudgedFirst) {
  setenv("HALFTONE_MATMUL", "natvie", 1);
  bool ran = false;
  const Outcome outcome = run({"train"}, [&](const TrainConfig&) { ran = true; });
  unsetenv("HALFTONE_MATMUL");
  EXPECT_FALSE(ran);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(
      outcome.err,
      "halftone: error: environment variable HALFTONE_MATMUL: expected native or upcast for a "
      "16-bit matmul, got 'natvie'\n");
}

TEST(CliSupport, HelpListsEveryKeyInItsGroup) {
  const Outcome outcome = run({"train", "--help"});
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.err, "");
  for (const ConfigField& field : config_fields()) {
    EXPECT_THAT(outcome.out, HasSubstr(flag_of(field.key)));
    EXPECT_THAT(outcome.out, HasSubstr(field.group + ":"));
  }
}

TEST(CliSupport, PrintGoesToStdout) {
  const Outcome outcome = run({"train"}, [](const TrainConfig&) { print("poem\n"); });
  EXPECT_EQ(outcome.out, "poem\n");
}

}  // namespace
}  // namespace halftone::cli::arguments_test
