// SPDX-License-Identifier: Apache-2.0
// What the built program does with what it is given.
#include <cstdint>
#include <limits>

#include "cli/program_fixture.h"
#include "halftone/io/safetensors.h"
#include "support/torch_file.h"

namespace halftone::test::program_test {
namespace {

TEST_F(Program, RefusesArgumentsThatMakeNoSense) {
  expect_refused({
      {"", "expected a command; see 'halftone --help'"},
      {"tain", "there is no command 'tain'; did you mean 'train'?"},
      {"trian --data poem.txt", "there is no command 'trian'; did you mean 'train'?"},
      {"tokenizer trian --data x --out y", "there is no command 'trian'; did you mean 'train'?"},
      {"encode --text a", "there is no command 'encode'; did you mean 'tokenizer encode'?"},
      {"--data poem.txt train", "expected the command before its flags: halftone train --data"},
      {"data fetsh fortunes", "there is no command 'fetsh'; did you mean 'fetch'?"},
      {"eval run poem.txt", "'poem.txt' was not expected; data goes with --data"},
      {"train tiny --data poem.txt", "a preset goes with --preset tiny"},
      {"train --preset tny --data poem.txt", "got 'tny'; did you mean 'tiny'?"},
      {"--vers", "there is no flag --vers; did you mean --version?"},
      {"train", "nothing to train on: name a text file, a .jsonl file or a folder with --data"},
      {"train --data", "--data: expected a value after it, got none"},
      {"train --dim 3", "there is no flag --dim; did you mean --model.dim?"},
      {"train --resume ''", "--resume: expected a run directory"},
      {"train --resume a --resume b", "--resume: expected one value; give the flag once"},
      {"train --data poem.txt --resume auto", "--resume auto: expected --out"},
      {"train --data poem.txt --resume auto --out run --overwrite", "give one of them"},
      {"train --data poem.txt --resume auto --out mine", "files that are not a halftone run"},
      {"train --data poem.txt --resume auto --out run --lr 0.1", "can't be changed on resume"},
      {"train poem.txt", "data goes with --data"},
      {"generate", "RUN is required; see 'halftone generate --help'"},
      {"tokenizer encode", "--tokenizer is required; see 'halftone tokenizer encode --help'"},
      {"tokenizer train --data poem.txt --out t --vocab-size many", "--vocab-size: expected"},
      {"data fetch fortune", "did you mean 'fortunes'?"},
      {"data fetch spoken-name", "did you mean 'spoken-names'?"},
      {"data fetch emoji --speakers 2", "--speakers is for spoken-names"},
      {"data fetch spoken-names --speakers 13", "expected 1 to 12 speakers, got 13"},
  });
}

TEST_F(Program, RefusesConfigurationFilesWithTheLine) {
  expect_refused({
      {"train none.toml", "cannot read 'none.toml'"},
      {"train syntax.toml", "syntax.toml:2: not TOML: "},
      {"train syntax.toml", "strings must be quoted"},
      {"train key.toml", "key.toml:4: there is no key 'model.dimm'; did you mean 'model.dim'?"},
      {"train type.toml", "type.toml:1: batch_size must be a positive integer, got 3.0"},
  });
}

TEST_F(Program, RefusesDataThatIsNone) {
  expect_refused({
      {training("--out r --data none.txt"), "none.txt does not exist"},
      {training("--out r --data empty.txt"), "no text found in"},
      {training("--out r --data nothing"), "nothing holds no text files"},
      {training("--out r --data binary.txt"), "binary.txt is binary"},
      {training("--out r --data latin1.txt"), "byte 0xEF at offset 11 (line 2)"},
      {training("--out r --data bad.jsonl"), "bad.jsonl:2: expected JSON, found a syntax error"},
      {training("--out r --data other.jsonl"), "other.jsonl:1 has no \"text\""},
      {training("--out r --data /dev/null"), "/dev/null is neither a file nor a folder"},
  });
}

TEST_F(Program, RefusesValidationThatCannotBe) {
  const std::string data = "--data poem.txt --tokenizer tok --out r ";
  expect_refused({
      {training(data + "--val-data none.txt"), "none.txt does not exist"},
      {training(data + "--val-data empty.txt"), "no text found in"},
      {training(data + "--val-split 1"), "--val-split: val_split must be a number between 0 and 1"},
      {training(data + "--val-split 0.01"),
       "the data has 1 document, which val_split can't divide; name text of its own with val_data"},
      {training(data + "--val-split 0.1 --val-data poem.txt"), "give one of them"},
      {training(data + "--early-stop 3"), "add val_split, such as --val-split 0.01, or val_data"},
      {training(data + "--val-every 3"), "--val-every: val_every needs text to validate on"},
      {training(data + "--val-every 0 --val-split 0.1"), "val_every must be a positive integer"},
      {"train --resume run --early-stop 3", "--early-stop: early_stop needs text to validate on"},
      {"train --resume run --val-split 0.1", "val_split is not set in the run 'run' and can't be"},
      {"bench --data poem.txt --val-split 0.1", "--val-split is not for this command"},
      {"eval run", "nothing to evaluate on"},
      {"eval run/best --data poem.txt", "/run' has no best checkpoint: a run has one once"},
      {"eval run/checkpoints --data poem.txt", "'run/checkpoints' is not a run directory"},
  });
}

TEST_F(Program, RefusesTokenizersAndWeightsThatDoNotFit) {
  const std::string data = "--out r --data poem.txt ";
  expect_refused({
      {training(data + "--tokenizer none"), "expected a tokenizer.json"},
      {training(data + "--tokenizer nothing"), "tokenizer train` makes one"},
      {training(data + "--tokenizer poem.txt"), "poem.txt: expected JSON"},
      {training(data + "--tokenizer cut.json"), "may be damaged or cut off"},
      {training(data + "--tokenizer unigram.json"), "unigram.json: model."},
      {training(data + "--tokenizer-vocab-size 10"), "the smallest vocab_size is 259"},
      {training(data + "--tokenizer tok --model.vocab-size 200"), "the tokenizer has 270 tokens"},
      {training(data + "--tokenizer tok --seq-len 9000"), "at most model.max_seq_len 2048"},
      {training(data + "--tokenizer tok --device cuda:99"), "device is 'cuda:99'"},
      {training(data + "--tokenizer tok --init-from none.safetensors"), "cannot read"},
      {training(data + "--tokenizer tok --init-from cut.safetensors"), "not a valid safetensors"},
      {training(data + "--tokenizer tok --init-from cut.pth"), "not a valid PyTorch file"},
      {training(data + "--tokenizer tok --init-from poem.txt"), "poem.txt' is not a valid"},
      {training(data + "--tokenizer tok --init-from nothing"), "nothing' has no weights"},
      {training(data + "--tokenizer tok --model.n-kv-heads 1 --init-from run"), "of another shape"},
      {training(data + "--tokenizer tok --model.hidden-dim 2000000000 --threads 1"),
       "or set memory_budget to unlimited"},
      {training(data + "--tokenizer tok --model.hidden-dim 2000000000 --threads 1 --memory-budget "
                       "unlimited"),
       "out of memory; reduce --batch-size", 1},
  });
}

TEST_F(Program, RefusesRunDirectoriesItMustNotTouch) {
  const std::string data = "--data poem.txt --tokenizer tok ";
  expect_refused({
      {training(data + "--out run"),
       "the run directory 'run' exists; resume it, overwrite it, or name "
       "another folder (--resume run, --overwrite, --out)"},
      {training(data + "--out mine"), "'mine' holds files that are not a halftone run"},
      {training(data + "--out mine --overwrite"), "'mine' holds files that are not a halftone run"},
      {training(data + "--out poem.txt"), "poem.txt"},
      {training(data + "--out poem.txt/run"), "Not a directory"},
      {training(data + "--out /proc/run"), "/proc/run"},
      {"tokenizer train --data poem.txt --out tok", "there is a tokenizer.json already"},
      {"tokenizer train --data poem.txt --out poem.txt", "expected a folder for --out"},
      {"tokenizer train --data poem.txt --out poem.txt/x", "Not a directory"},
  });
}

TEST_F(Program, QuotesAPathInACommandThatItSuggests) {
  copy_of_run("it's $mine");
  expect_refused({{training("--data poem.txt --tokenizer tok --out \"it's \\$mine\""),
                   R"((--resume 'it'\''s $mine', --overwrite, --out))"}});
  fs::remove_all(work() / "it's $mine");
}

TEST_F(Program, RefusesToResumeWhatIsNoRunOrHasChanged) {
  fs::remove(copy_of_run("no_config") / "config.toml");
  fs::remove_all(copy_of_run("no_checkpoint") / "checkpoints");
  fs::remove(copy_of_run("no_tokenizer") / "tokenizer.json");
  const fs::path damaged = copy_of_run("damaged");
  for (const char* step : {"step-00000002", "step-00000004"})
    write_text(damaged / "checkpoints" / step / "trainer.json", "{}");
  expect_refused({
      {"train --resume none", "there is no run directory 'none'"},
      {"train --resume mine", "'mine' is not a run directory: it has no config.toml"},
      {"train --resume poem.txt", "'poem.txt' is not a run directory"},
      {"train --resume no_config", "it has no config.toml"},
      {"train --resume no_checkpoint", "'no_checkpoint' has no checkpoint"},
      {"train --resume no_tokenizer", "no_tokenizer/tokenizer.json"},
      {"train --resume damaged", "'damaged' has no checkpoint that is whole"},
      {"train --resume run --lr 0.1", "lr is 0.0005 in the run 'run' and can't be changed"},
      {"train --resume run --out elsewhere", "can't be changed on resume"},
      {"train --resume run --data bad.jsonl", "can't be changed on resume"},
  });
}

TEST_F(Program, RefusesToGenerateOutOfRange) {
  expect_refused({
      {"generate none", "there is no run directory 'none'"},
      {"generate mine", "'mine' is not a run directory"},
      {"generate run --prompt $(printf '\\377') ", "--prompt is not UTF-8: byte 0"},
      {"generate run --temperature 0", "--temperature: expected a number above 0, got 0"},
      {"generate run --temperature nan", "--temperature: expected a number above 0"},
      {"generate run --top-p 0", "--top-p: expected a number above 0 and at most 1, got 0"},
      {"generate run --top-p 2", "--top-p: expected a number above 0 and at most 1, got 2"},
      {"generate run --max-new-tokens 0", "--max-new-tokens: expected an integer from 1"},
      {"generate run --max-new-tokens 99999999999999999999", "--max-new-tokens: expected"},
      {"generate run --seed -1", "--seed: expected an integer that is 0 or more, got -1"},
      {"generate run --precision fp16", "--precision: precision must be one of"},
      {"generate run --threads -1", "--threads: threads must be an integer from 0"},
  });
}

TEST_F(Program, RefusesToEvaluateWithoutAModelOrText) {
  expect_refused({
      {"eval run", "nothing to evaluate on"},
      {"eval --data poem.txt", "expected a model: RUN"},
      {"eval run --data none.txt", "none.txt does not exist"},
      {"eval yarn --data poem.txt", "yarn/config.json: rope_scaling: expected no scaling of the "},
      {"eval fraction --data poem.txt",
       "hidden_size must be an integer from 1 to 2147483647, but "},
      {"eval granite --data poem.txt", "granite/config.json: expected a MiniMind, a Llama, "},
      {"generate granite --prompt a", "found another model by \"embedding_multiplier\" 12.0"},
      {"eval run --data poem.txt --model.dim 32", "--model.dim is for --init-from without RUN"},
      {"eval run --data poem.txt --seq-len 9000",
       "--seq-len: seq_len must be at most model.max_seq_len 2048, got 9000"},
      {"tokenizer decode --tokenizer tok 1 270", "expected token ids from 0 to 269, found \"270\""},
      {"tokenizer encode --tokenizer tok --text $(printf '\\377')", "--text: expected UTF-8"},
  });
}

TEST_F(Program, HelpAndVersionGoToStdout) {
  const Outcome help = halftone("--help");
  EXPECT_EQ(help.code, 0);
  EXPECT_EQ(help.err, "");
  EXPECT_THAT(help.out, HasSubstr("Examples:"));
  const Outcome version = halftone("--version");
  EXPECT_EQ(version.code, 0);
  EXPECT_THAT(version.out, testing::MatchesRegex("halftone [0-9.]+ \\(LibTorch [0-9.]+\\)\n"));
}

TEST_F(Program, ItsThreadsWaitShortlyUnlessTheEnvironmentSaysHow) {
  const auto spins_with = [](const std::string& environment) {
    const std::string shown =
        halftone("--version", "unset OMP_WAIT_POLICY; export OMP_DISPLAY_ENV=VERBOSE" + environment)
            .err;
    const std::size_t begin = shown.find("GOMP_SPINCOUNT = '") + 18;
    return shown.substr(begin, shown.find('\'', begin) - begin);
  };
  EXPECT_EQ(spins_with(""), "5000");
  EXPECT_EQ(spins_with(" GOMP_SPINCOUNT=77"), "77");
  EXPECT_EQ(spins_with(" OMP_WAIT_POLICY=PASSIVE"), "0");
}

TEST_F(Program, HelpOfACommandFitsATerminal) {
  for (const std::string command : {"train", "generate", "eval", "tokenizer train", "data fetch"}) {
    std::istringstream help(halftone(command + " --help").out);
    for (std::string line; std::getline(help, line);) {
      const bool is_an_example = line.starts_with("  halftone ");
      EXPECT_TRUE(is_an_example || line.size() <= 100) << line;
    }
  }
}

TEST_F(Program, AFullStdoutIsAFailure) {
  EXPECT_EQ(halftone("--help >/dev/full").code, 1);
  EXPECT_EQ(halftone("tokenizer decode --tokenizer tok 70 71 >/dev/full").code, 1);
}

TEST_F(Program, AReaderWhoLeavesIsNoFailure) {
  const Outcome cut = halftone("generate run --greedy --max-new-tokens 2000 | head -c 3");
  EXPECT_EQ(cut.out.size(), 3U);
  EXPECT_EQ(cut.err, "");
}

TEST_F(Program, GeneratesTheSameTextWithAnyNumberOfThreads) {
  for (const std::string precision : {"32-true", "bf16-true", "16-true", "bf16-mixed"}) {
    const std::string words =
        "generate run --prompt a --greedy --max-new-tokens 12 --precision " + precision;
    const Outcome one = halftone(words + " --threads 1"), two = halftone(words + " --threads 2");
    ASSERT_EQ(one.code, 0) << one.err;
    EXPECT_GT(one.out.size(), 2U);
    EXPECT_EQ(two.out, one.out) << precision;
  }
}

TEST_F(Program, NumbersThatStayBrokenEndTheRunAndNameATensor) {
  const Outcome outcome =
      halftone(std::string("train --data poem.txt --tokenizer tok --out broken") + kModel +
               "--precision 32-true --lr 1e30 --max-steps 40");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("the last 10 updates were skipped"));
  EXPECT_THAT(outcome.err, HasSubstr("first in tok_embeddings.weight"));
  EXPECT_THAT(read_text(work() / "broken/report.html"),
              HasSubstr("ended by an error (the last 10 updates were skipped"));
}

TEST_F(Program, MessagesThatNobodyReadsEndNoRun) {
  const Outcome outcome =
      halftone(std::string("train --data poem.txt --tokenizer tok --out unread") + kModel +
               "--max-steps 3 --log-every 1 2> /dev/full");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "unread\n");
}

TEST_F(Program, ADamagedNewestCheckpointIsPassedOver) {
  const fs::path run = copy_of_run("half_damaged");
  fs::resize_file(run / "checkpoints" / "step-00000004" / "model.safetensors", 100);
  const Outcome outcome = halftone("train --resume half_damaged --max-steps 5 --save-every 10");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(fs::exists(run / "checkpoints" / "step-00000002")) << "a whole one stays";
  EXPECT_FALSE(fs::exists(run / "checkpoints" / "step-00000004"));
  EXPECT_TRUE(fs::exists(run / "checkpoints" / "step-00000005"));
  EXPECT_THAT(outcome.err, HasSubstr("model.safetensors' is damaged"));
  EXPECT_THAT(outcome.err, HasSubstr("going back to the checkpoint of step 2"));
  const std::string metrics = read_text(run / "metrics.jsonl");
  EXPECT_EQ(std::count(metrics.begin(), metrics.end(), '\n'), 5);
}

TEST_F(Program, LeavesAReportOfTheRun) {
  const std::string page = read_text(work() / "run/report.html");
  EXPECT_THAT(page, HasSubstr("<h1>run</h1><p>finished at step 4, "));
  EXPECT_THAT(page, HasSubstr("<dt>precision</dt><dd>bf16-mixed</dd>"));
  EXPECT_THAT(page, HasSubstr("<dt>memory recipe</dt><dd>standard</dd>"));
  EXPECT_THAT(page, HasSubstr("max_steps = 4"));
  const fs::path run = copy_of_run("reported");
  fs::remove(run / "report.html");
  const Outcome outcome = halftone("train --resume reported");  // has nothing to do
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("report     reported/report.html\n"));
  EXPECT_THAT(read_text(run / "report.html"), HasSubstr("finished at step 4, "));
  fs::remove(run / "report.html");
  fs::create_directories(run / "report.html" / "mine");  // it can't be written
  const Outcome without = halftone("train --resume reported --max-steps 5");
  EXPECT_EQ(without.code, 0) << without.err;
  EXPECT_THAT(without.err, HasSubstr("halftone: warning: the run goes on without its report"));
  EXPECT_THAT(without.err, testing::Not(HasSubstr("report     ")));
}

TEST_F(Program, NoRoomIsAFailureThatKeepsTheLastCheckpoint) {
  const fs::path run = copy_of_run("no_room");
  const Outcome outcome = halftone("train --resume no_room --max-steps 6", "ulimit -f 16");
  EXPECT_EQ(outcome.code, 1) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("halftone: error: cannot write"));
  EXPECT_TRUE(fs::exists(run / "checkpoints" / "step-00000004"));
  EXPECT_EQ(halftone("generate no_room --greedy --max-new-tokens 2").code, 0);
}

TEST_F(Program, OffloadedStatesChangeNoBitAndMayMoveOnResume) {
  const fs::path disk = work() / "disk";
  fs::create_directory(disk);
  const auto checkpoint = [](const std::string& run, int step) {
    const fs::path folder = work() / run / "checkpoints" / fmt::format("step-{:08}", step);
    return read_text(folder / "model.safetensors") + read_text(folder / "optimizer.safetensors");
  };
  const std::string words = std::string("train --data poem.txt --tokenizer tok") + kModel +
                            "--max-steps 4 --save-every 2 --offload disk --out offloaded";
  const Outcome outcome = halftone(words);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(checkpoint("offloaded", 4) == checkpoint("run", 4));
  EXPECT_THAT(read_text(work() / "offloaded/metrics.jsonl"), HasSubstr("\"states_mib\":0.0"));

  copy_of_run("begun_in_memory");
  EXPECT_EQ(halftone("train --resume begun_in_memory --max-steps 6 --offload disk").code, 0);
  EXPECT_EQ(halftone("train --resume offloaded --max-steps 6 --offload ''").code, 0);
  EXPECT_TRUE(checkpoint("offloaded", 6) == checkpoint("begun_in_memory", 6));
  EXPECT_TRUE(fs::is_empty(disk));

  const Outcome full =
      halftone("train --resume begun_in_memory --max-steps 8 --offload .", "ulimit -f 16");
  EXPECT_EQ(full.code, 1);
  EXPECT_THAT(full.err, HasSubstr("halftone: error: cannot keep"));
  fs::remove(disk);
  expect_refused(
      {{"train --resume begun_in_memory --max-steps 8", "cannot keep data in the folder"},
       {"train --data poem.txt --out r --offload poem.txt", "Not a directory"},
       {"plan --preset tiny --offload 1 --offload 2", "expected one value"}});
}

TEST_F(Program, ARunsConfigurationMakesTheSameRunAgain) {
  const Outcome outcome = halftone("train run/config.toml --out again");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(read_text(work() / "again/checkpoints/step-00000004/model.safetensors"),
            read_text(work() / "run/checkpoints/step-00000004/model.safetensors"));
}

// The environment chose them: the run's file says what it chose, and goes on doing so without it.
TEST_F(Program, ARunsConfigurationReproducesItsKernels) {
  const std::string variables =
      "export HALFTONE_MATMUL=bf16=upcast,fp16=upcast,fp32=blas "
      "HALFTONE_REFERENCE_KERNELS=rms_norm,swiglu HALFTONE_CPU_GEMM=off";
  const Outcome first =
      halftone(training("--data poem.txt --tokenizer tok --out chosen"), variables);
  ASSERT_EQ(first.code, 0) << first.err;
  const std::string config = read_text(work() / "chosen/config.toml");
  EXPECT_THAT(config, HasSubstr("matmul = \"bf16=upcast,fp16=upcast,fp32=blas\""));
  EXPECT_THAT(config, HasSubstr("reference = \"rms_norm,swiglu\""));
  EXPECT_THAT(config, HasSubstr("cpu_gemm = \"off\""));
  const Outcome second = halftone("train chosen/config.toml --out chosen-again");
  ASSERT_EQ(second.code, 0) << second.err;
  EXPECT_THAT(second.err, HasSubstr("rms_norm,swiglu as ordinary LibTorch operations"));
  const std::string again = read_text(work() / "chosen-again/config.toml");
  EXPECT_EQ(again.substr(again.find("[kernels]")), config.substr(config.find("[kernels]")));
  EXPECT_EQ(read_text(work() / "chosen-again/checkpoints/step-00000001/model.safetensors"),
            read_text(work() / "chosen/checkpoints/step-00000001/model.safetensors"));
  // A variable goes first.
  const Outcome other = halftone("train chosen/config.toml --out chosen-other",
                                 "export HALFTONE_REFERENCE_KERNELS=embedding");
  ASSERT_EQ(other.code, 0) << other.err;
  EXPECT_THAT(other.err, HasSubstr("reference kernels: embedding as ordinary"));
}

TEST_F(Program, RefusesKernelsThatAreNone) {
  const std::string data = "--data poem.txt --tokenizer tok --out r ";
  expect_refused({
      {training(data + "--kernels.matmul fast"),
       "--kernels.matmul: kernels.matmul must be auto, or"},
      {training(data + "--kernels.reference rms_nrom"), "must be names of kernels"},
      {training(data + "--kernels.cpu-gemm maybe"), "must be one of on, off, all"},
  });
}

TEST_F(Program, WeightsOfARunStartAnother) {
  const Outcome outcome =
      halftone(training("--data poem.txt --tokenizer tok --init-from run --out tuned"));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
}

TEST_F(Program, WeightsOfATorchFileAreThoseOfTheRun) {
  const StateDict weights =
      load_safetensors(work() / "run/checkpoints/step-00000004/model.safetensors");
  write_text(work() / "full_sft_16.pth", torch_file_of(weights.tensors));
  const auto trained_from = [](const std::string& from) {
    const Outcome outcome = halftone(training(
        "--data poem.txt --tokenizer tok --seed 7 --init-from " + from + " --out from-" + from));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return read_text(work() / ("from-" + from) / "checkpoints/step-00000001/model.safetensors");
  };
  EXPECT_TRUE(trained_from("full_sft_16.pth") == trained_from("run"));
}

TEST_F(Program, EvalReadsSpecialTokensAsTheTrainingDid) {
  write_text(work() / "marked.txt", "one line</s>\nanother line</s>\n");
  const Outcome trained =
      halftone(training("--data poem.txt --tokenizer tok --special-tokens tokens --out marked"));
  ASSERT_EQ(trained.code, 0) << trained.err;
  const auto notes_of = [](const std::string& words) {
    const Outcome outcome = halftone(words);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.err;
  };
  EXPECT_THAT(notes_of("eval marked --data marked.txt"), HasSubstr("are read as tokens"));
  EXPECT_THAT(notes_of("eval marked --data marked.txt --special-tokens text"),
              HasSubstr("are read as text"));
  EXPECT_THAT(notes_of("eval run --data marked.txt"), HasSubstr("are read as text"));
}

TEST_F(Program, EvalPacksAndRepairsTextAsTheTrainingDid) {
  write_text(work() / "damaged.txt", "one line\xff\n\nanother line\n");
  const Outcome trained = halftone(training(
      "--data damaged.txt --tokenizer tok --pack false --invalid-utf8 replace --out unpacked"));
  ASSERT_EQ(trained.code, 0) << trained.err;
  const auto tokens_of = [](const std::string& words) {
    const Outcome outcome = halftone(words + " --json");
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return nlohmann::json::parse(outcome.out).at("tokens").get<std::int64_t>();
  };
  const std::int64_t own = tokens_of("eval unpacked --data damaged.txt");
  EXPECT_EQ(own, tokens_of("eval unpacked --data damaged.txt --pack false"));
  EXPECT_NE(own, tokens_of("eval unpacked --data damaged.txt --pack true"));
  EXPECT_EQ(halftone("eval unpacked --data damaged.txt --invalid-utf8 error").code, 2);
}

TEST_F(Program, ExportsARunAndSaysWhatItHeldAgainstIt) {
  const Outcome outcome = halftone("export run --format gguf --json --out exported");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto report = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(report["verified"], true);
  EXPECT_EQ(report["text"]["training_text"], true);
  EXPECT_EQ(report["text"]["lines"], 61);  // 60, and what follows the last line break
  EXPECT_EQ(report["logits_error"], 0.0);
  EXPECT_EQ(read_text(work() / "exported" / "model.gguf").substr(0, 4), "GGUF");
  EXPECT_EQ(nlohmann::json::parse(read_text(work() / "exported" / "export.json")), report);
  expect_refused({{"export run", "--format"},
                  {"export run --format ggml", "did you mean gguf?"},
                  {"export run --format hf --dtype fp16", "--dtype: expected f32, f16, bf16, int8"},
                  {"export run --format w8a8 --dtype f16", "--format w8a8 expects int8, got f16"},
                  {"export run --format gguf --dtype int8 --out x", "a multiple of 32"},
                  {"export nothing --format hf --out x", "'nothing' is not a run directory"},
                  {"export nowhere --format hf --out x", "no run directory 'nowhere'"},
                  {"export run --format hf --out mine", "something else than an export"},
                  {"export run --format gguf --out exported", "add --overwrite"}});
  EXPECT_THAT(halftone("export run --format safetensors --dtype int8").out,
              HasSubstr("verified    run/exports/safetensors-int8"));
  const Outcome written =
      halftone("generate run/exports/safetensors-int8 --prompt spring --greedy --max-new-tokens 3");
  EXPECT_EQ(written.code, 0) << written.err;
}

TEST_F(Program, EvalWritesOneJsonDocument) {
  const Outcome outcome = halftone("eval run --data poem.txt --json");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  const auto result = nlohmann::json::parse(outcome.out);
  EXPECT_NEAR(result.at("perplexity"), std::exp(result.at("loss").get<double>()), 1e-3);
  EXPECT_GT(result.at("bits_per_byte"), 0.0);
}

TEST_F(Program, BenchTrainsEveryRecipeWithTheSameSeedsAndWritesNothing) {
  const auto before = files();
  const std::string words =
      std::string("bench --data poem.txt --tokenizer tok --seq-len 16 --max-steps 3") + kModel;
  const Outcome outcome = halftone(words + "--seeds 1,2 --json");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto runs = nlohmann::json::parse(outcome.out).at("runs");
  std::map<std::string, std::map<std::int64_t, double>> first_losses;
  for (const auto& run : runs) {
    EXPECT_EQ(run.at("steps"), 3);
    EXPECT_GT(run.at("step_ms"), 0.0);
    EXPECT_GT(run.at("peak_bytes"), 0);
    first_losses[run.at("recipe")][run.at("seed")] = run.at("first_loss");
  }
  EXPECT_EQ(first_losses.size(), 9);  // eight precisions, one of them with two ways of rounding
  for (const auto& [recipe, losses] : first_losses) {
    ASSERT_EQ(losses.size(), 2) << recipe;
    EXPECT_NE(losses.at(1), losses.at(2)) << recipe;
    EXPECT_NEAR(losses.at(1), first_losses["32-true"].at(1), 0.05) << recipe;
  }
  const Outcome table = halftone(words + "--recipes 32-true,int8-mixed");
  EXPECT_THAT(table.out, testing::ContainsRegex("int8-mixed .* ms .*x"));
  EXPECT_TRUE(files() == before);
}

TEST_F(Program, AnAdaptiveScaleIsMeasuredAndGoesOnWithTheSameBits) {
  const std::string words = std::string("train --data poem.txt --tokenizer tok --seq-len 16") +
                            kModel +
                            "--precision 16-mixed --loss-scale adaptive --keep-fp32 norm --out ";
  ASSERT_EQ(halftone(words + "adaptive --max-steps 6").code, 0);
  const std::string metrics = read_text(work() / "adaptive/metrics.jsonl");
  const auto first = nlohmann::json::parse(metrics.substr(0, metrics.find('\n')));
  EXPECT_TRUE(first.at("underflow_share").is_number()) << first;

  ASSERT_EQ(halftone(words + "parts --max-steps 6 --save-every 3").code, 0);
  fs::remove_all(work() / "parts/checkpoints/step-00000006");
  const Outcome resumed = halftone("train --resume parts");
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_EQ(read_text(work() / "parts/checkpoints/step-00000006/model.safetensors"),
            read_text(work() / "adaptive/checkpoints/step-00000006/model.safetensors"));
}

TEST_F(Program, RefusesPrecisionsThatCannotBe) {
  expect_refused({
      {training("--data poem.txt --tokenizer tok --out new --keep-fp32 attentoin"), "attentoin"},
      {training("--data poem.txt --tokenizer tok --out new --keep-fp32 '('"), "'('"},
      {training("--data poem.txt --out new --precision 32-true --keep-fp32 norm"),
       "goes with a mixed precision"},
      {training("--data poem.txt --out new --loss-scale adaptive"), "16-true and 16-mixed only"},
      {"bench --data poem.txt --recipes 17-true", "expected a recipe out of 32-true, "},
      {"bench --data poem.txt --precision 16-mixed", "--precision is not for this command"},
      {"bench --data poem.txt --out new", "--out is not for this command: it writes nothing"},
      {"bench --data poem.txt --overwrite", "--overwrite is not for this command"},
      {"bench --data poem.txt --save-every 3", "--save-every is not for this command"},
      {"bench --data poem.txt --keep-checkpoints 3", "--keep-checkpoints is not for this command"},
      {"bench", "--data"},
  });
}

TEST_F(Program, WatchesLayers) {
  const std::string words = std::string("train --data poem.txt --tokenizer tok") + kModel;
  const Outcome outcome = halftone(words + "--max-steps 6 --watch 2 --out watched");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  std::istringstream lines(read_text(work() / "watched/metrics.jsonl"));
  std::vector<std::int64_t> sampled;
  for (std::string text; std::getline(lines, text);) {
    const auto line = nlohmann::json::parse(text);
    if (line.contains("update_ratio/layers.0.attention.wq.weight"))
      sampled.push_back(line.at("step"));
  }
  EXPECT_THAT(sampled, testing::ElementsAre(2, 4, 6));
  EXPECT_THAT(read_text(work() / "watched/report.html"), HasSubstr("<h2>Layers</h2>"));
  EXPECT_THAT(read_text(work() / "watched/config.toml"), HasSubstr("watch = \"2\""));

  ASSERT_EQ(halftone(words + "--max-steps 6 --out unwatched").code, 0);
  EXPECT_EQ(read_text(work() / "watched/checkpoints/step-00000006/model.safetensors"),
            read_text(work() / "unwatched/checkpoints/step-00000006/model.safetensors"));
  const Outcome resumed = halftone("train --resume unwatched --watch auto --max-steps 8");
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  expect_refused({
      {words + "--out new --watch 0", "off, auto or a number of optimizer steps"},
      {words + "--out new --watch often", "off, auto or a number of optimizer steps"},
      {"bench --data poem.txt --watch 3", "--watch is not for this command"},
  });
}

TEST_F(Program, DoctorSaysWhatTheMachineCanDo) {
  const Outcome outcome = halftone("doctor --json --threads 1");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  const auto report = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(report.at("threads"), 1);
  EXPECT_GT(report.at("memory").at("total_bytes"), 0);
  EXPECT_GT(report.at("speed").at("peak_fp32_gflops"), 0.0);
  const auto& layers = report.at("speed").at("layers");
  ASSERT_EQ(layers.size(), 6);
  for (const auto& layer : layers) EXPECT_GT(layer.at("layer_ms"), 0.0) << layer;
  const std::string recommended = report.at("recommended").at("precision");
  EXPECT_TRUE(std::any_of(layers.begin(), layers.end(), [&](const auto& layer) {
    return layer.at("precision") == recommended;
  })) << recommended;
  for (const auto& pays : report.at("crossings").at("pays"))
    EXPECT_TRUE(pays.at("from_width").is_null() || pays.at("from_width") >= 64) << pays;
  EXPECT_GE(report.at("crossings").at("by_width").size(), 3);
  EXPECT_GT(report.at("threads_measured").at("fp32_matmul").at(0).at("gflops"), 0.0);
  for (const auto& finding : report.at("findings"))
    EXPECT_FALSE(finding.at("remedy").get<std::string>().empty()) << finding;
  for (const auto& product : report.at("matmuls").at("products"))
    EXPECT_THAT(product.at("taken"), testing::AnyOf("native", "upcast"));

  const auto forced =
      nlohmann::json::parse(halftone("doctor --json --quick --threads 1",
                                     "export HALFTONE_MATMUL=bf16=native,fp16=native,fp32=blas")
                                .out);
  EXPECT_TRUE(forced.at("crossings").is_null());
  EXPECT_EQ(forced.at("matmuls").at("decided_by"), "environment");
  EXPECT_EQ(forced.at("matmuls").at("choice"), "bf16=native,fp16=native,fp32=blas");
  EXPECT_EQ(forced.at("matmuls").at("fp32").at("taken"), "blas");
  EXPECT_EQ(forced.at("matmuls").at("products").at(7).at("taken"), "native");

  const Outcome text =
      halftone("doctor --remeasure --quick --threads 1", "export ATEN_CPU_CAPABILITY=avx2");
  EXPECT_THAT(text.out, HasSubstr("what costs most here, and what helps"));
  EXPECT_THAT(text.out, HasSubstr("ATEN_CPU_CAPABILITY=avx2 limits the instructions"));
  EXPECT_THAT(text.out, testing::Not(HasSubstr("mixed precision pays here")));
  EXPECT_THAT(text.out, HasSubstr("recommended on this CPU: --precision "));
  EXPECT_THAT(text.out, HasSubstr("measured now"));
  expect_refused({{"doctor --threads 0", "expected 1 to 1024, got 0"},
                  {"doctor --remesure", "did you mean --remeasure?"},
                  {"doctor now", "'now' was not expected"}});
}

TEST_F(Program, PlansARunBeforeThereIsData) {
  const auto before = files();
  const auto plan = [](const std::string& budget) {
    const Outcome outcome =
        halftone("plan --preset minimind-26m --threads 1 --json --memory-budget " + budget);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return nlohmann::json::parse(outcome.out);
  };
  // A budget that some fit and some don't, whatever the process itself takes here.
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  const nlohmann::json all = plan("unlimited");
  for (const auto& recipe : all.at("recipes"))
    least = std::min(least, recipe.at("peak_bytes").get<std::int64_t>());
  const std::int64_t budget_mib = (least >> 20U) + 80;
  const nlohmann::json document = plan(std::to_string(budget_mib) + "MiB");
  EXPECT_EQ(document.at("parameters"), 25'829'888);
  EXPECT_EQ(document.at("budget_bytes"), budget_mib << 20U);
  const auto& recipes = document.at("recipes");
  ASSERT_EQ(recipes.size(), 22U);
  EXPECT_EQ(document.at("choice"), recipes.at(0));
  EXPECT_NE(recipes.at(0).at("memory"), "standard");
  EXPECT_FALSE(recipes.at(15).at("fits"));
  for (std::size_t i = 0; i < recipes.size(); ++i) {
    const bool fits = recipes[i].at("fits");
    EXPECT_EQ(fits, recipes[i].at("peak_bytes") <= document.at("budget_bytes"));
    if (i == 0) continue;
    EXPECT_GE(recipes[i - 1].at("fits"), fits);
    const auto releases = [&](std::size_t k) { return recipes[k].at("memory") == "leanest"; };
    if (fits) {
      EXPECT_GE(releases(i), releases(i - 1)) << i;
    }
    if (i > 1 && fits && releases(i) == releases(i - 1)) {
      EXPECT_GE(recipes[i].at("step_s"), recipes[i - 1].at("step_s"));
    }
    if (!recipes[i - 1].at("fits")) {
      EXPECT_GE(recipes[i].at("peak_bytes"), recipes[i - 1].at("peak_bytes"));
    }
  }
  const Outcome offloaded = halftone(
      "plan --preset minimind-26m --threads 1 --memory-budget unlimited --offload . --json");
  ASSERT_EQ(offloaded.code, 0) << offloaded.err;
  const auto offloaded_plan = nlohmann::json::parse(offloaded.out);
  for (const auto& recipe : offloaded_plan.at("recipes")) {
    EXPECT_GE(recipe.at("disk_bytes"), 2 * 25'829'888);
    EXPECT_LE(recipe.at("bytes").at("states"), std::int64_t{8} << 22U);
    if (recipe.at("memory") == "standard" && recipe.at("precision") == "32-true") {
      EXPECT_GE(recipe.at("disk_bytes"), 8 * 25'829'888);
    }
  }
  for (const auto& recipe : recipes) EXPECT_EQ(recipe.at("disk_bytes"), 0);
  EXPECT_THAT(halftone("plan --preset tiny --threads 1 --offload .").out, HasSubstr(" on disk"));
  EXPECT_THAT(halftone("plan --preset tiny --threads 1 --memory-budget 1MiB").out,
              HasSubstr("none fits"));
  EXPECT_THAT(halftone("plan --preset tiny --threads 1 --memory-budget unlimited").out,
              HasSubstr("the fastest that fits: --precision "));
  EXPECT_TRUE(files() == before);
}

TEST_F(Program, RefusesARunThatCannotFitAndNamesOneThatCan) {
  const std::string large =
      "train --data poem.txt --tokenizer tok --out r --preset minimind-26m --precision 32-true "
      "--threads 1 --memory-budget ";
  expect_refused({
      {large + "800MiB", "; use precision 32-true with memory lean ("},
      {large + "560MiB", "more than the budget of 560 MiB; use precision "},
      {large + "1MiB", "no recipe needs less than "},
      {large + "lots", "memory_budget must be available, unlimited or a size such as 8GiB"},
      {"plan --preset tiny --device cuda:99", "device is 'cuda:99'"},
      {"plan poem.txt", "data goes with --data"},
      {"bench --data poem.txt --memory-budget 8GiB", "'halftone plan' predicts it"},
  });
}

TEST_F(Program, RefusesAnUnknownSwitchOfTheFastProducts) {
  const std::string words = "tokenizer encode --tokenizer tok --text a";
  const Outcome refused = halftone(words, "export HALFTONE_CPU_GEMM=fast");
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr("HALFTONE_CPU_GEMM: expected on, off or all, got 'fast'"));
  EXPECT_EQ(halftone(words, "export HALFTONE_CPU_GEMM=off").out, halftone(words).out);
}

TEST_F(Program, TextSurvivesTheTokenizer) {
  const std::string poem = read_text(work() / "poem.txt");
  write_text(work() / "ids.txt",
             halftone("tokenizer encode --tokenizer tok --text \"$(cat poem.txt)\"").out);
  const Outcome decoded = halftone("tokenizer decode --tokenizer tok $(cat ids.txt)");
  EXPECT_EQ(decoded.code, 0) << decoded.err;
  EXPECT_EQ(decoded.out + "\n", poem);
}

}  // namespace
}  // namespace halftone::test::program_test
